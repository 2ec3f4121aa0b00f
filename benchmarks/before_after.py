"""Compares this checkout with another one, in alternating pairs of calls, on the CPU:

    git worktree add ../before REVISION
    python benchmarks/before_after.py --before=../before [--suite=iteration_tree] [--pairs=9] [--full] [--json=FILE]

Both checkouts run the same suite of run.py (its sizes of --quick unless --full is given) on the same work, each in a
process of its own that stays alive: what is compiled once is not timed. Ratio: seconds before / seconds after, so above
1 this checkout is faster. The interval is Student's t over the logarithms of the pairs' ratios.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

from benchmarks import pairs, protocol, run, work  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Runs the pairs and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--suite", default="iteration_tree", choices=run.SUITES)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--full", action="store_true", help="the full sizes of run.py instead of its quick ones")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    flags = parser.parse_args(arguments)
    os.environ.update(run.ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as name:
        folder = Path(name)
        work_file = folder / "work.json"
        work_file.write_text(json.dumps(run.make_work(work.FULL if flags.full else work.QUICK, None)))
        command = [sys.executable, "-m", "benchmarks.ours", f"--work={work_file}"]
        seconds: dict[str, list[float]] = {"before": [], "after": []}
        with (
            (folder / "log").open("w") as log,
            protocol.Worker(command, log=log, cwd=flags.before.resolve(), env=_cache(folder / "before")) as before,
            protocol.Worker(command, log=log, cwd=ROOT, env=_cache(folder / "after")) as after,
        ):
            workers = {"before": before, "after": after}
            for side, worker in workers.items():
                worker.ask("setup", suite=flags.suite, tuned={})
                run.say(f"{side}: first call {worker.ask('run')['seconds']:.1f} s")
            for pair in range(flags.pairs):
                order = list(workers.items())
                for side, worker in order if pair % 2 == 0 else reversed(order):
                    seconds[side].append(worker.ask("run")["seconds"])
                a, b = seconds["before"][-1], seconds["after"][-1]
                run.say(f"pair {pair + 1} of {flags.pairs}: before {a:.2f} s, after {b:.2f} s, ratio {a / b:.3f}")
    result = pairs.ratio(seconds["after"], seconds["before"])
    print(f"{flags.suite}: before {statistics.median(seconds['before']):.2f} s, after "
          f"{statistics.median(seconds['after']):.2f} s (medians); ratio {result['ratio']:.3f}, 95 % interval "
          f"{result['low']:.3f} to {result['high']:.3f}, {flags.pairs} alternating pairs")
    if flags.json:
        flags.json.write_text(json.dumps({**seconds, **result}, indent=1))
    return 0


def _cache(folder: Path) -> dict[str, str]:
    folder.mkdir()
    return {"JAX_COMPILATION_CACHE_DIR": str(folder)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
