"""Requests and wall time of a run whose work folder is in a bucket, beside the same run on a disk:

    pip install -r tests/requirements.txt
    python benchmarks/bucket_requests.py [--rounds=3] [--delays=0,30,100] [--small] [--json=FILE]

Starts an emulator of each store on this machine, and a proxy in front of it that delays each request. Each round does
every run once, in an order that alternates, in a process forked from one that has imported everything; programs come
from a compilation cache. Ratio: median over the rounds of seconds in the bucket / seconds on the disk of that round.
"""

import argparse
import collections
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/cloud"))

import forked_runs  # noqa: E402
import object_stores  # noqa: E402

QUICKSTART = ("--config=configs/quickstart.py", "--config.iterations=1", "--config.baselines=('initial',)")
KINDS = ("write", "read", "stat", "list", "delete", "bucket")


def main(arguments: Sequence[str]) -> int:
    """Runs the rounds and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delays", default="0,30,100", help="milliseconds a request")
    parser.add_argument("--small", action="store_true", help="the tests' run of seconds instead of the quickstart's")
    parser.add_argument("--json", type=Path, help="write seconds and counts to this file")
    flags = parser.parse_args(arguments)
    delays = [int(text) for text in flags.delays.split(",")]
    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as name:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{name}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        busy = os.getloadavg()[0]
        seconds, counts = _measure(Path(name), forked_runs.SMALL if flags.small else QUICKSTART, delays,
                                   flags.rounds)
    _print(seconds, counts)
    print(f"\n{flags.rounds} rounds on {os.cpu_count()} cores; load average before them {busy:.1f}")
    if flags.json:
        flags.json.write_text(json.dumps({"seconds": seconds, "requests": counts, "load": busy}, indent=1) + "\n")
    return 0


def _measure(
    folder: Path, run_flags: Sequence[str], delays: Sequence[int], rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, int]]]:
    """Seconds by what was run, and requests by store."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    counts: dict[str, dict[str, int]] = {}
    with (
        forked_runs.Runs(folder) as runs, object_stores.started("gs") as gs, object_stores.started("s3") as s3,
    ):
        def run(what: str, workdir: str, environment: dict[str, str]) -> None:
            start = time.monotonic()
            code, said = runs([*run_flags, f"--workdir={workdir}"], environment)
            if code:
                raise SystemExit(f"{what}: exit code {code}\n{said}")
            seconds[what].append(time.monotonic() - start)
            print(f"{what}: {seconds[what][-1]:.1f} s", file=sys.stderr, flush=True)

        def run_in(store: object_stores.Store, delay: int, number: int) -> None:
            with store.proxy.settings(delay=delay / 1000):
                run(f"{store.scheme}, {delay} ms", f"{store.uri}/{number}-{delay}", store.environment())
                kinds = collections.Counter(request.kind for request in store.proxy.requests)
            counts[store.scheme] = {"objects": len(store.objects(f"{number}-{delay}")), **kinds}

        run("warm-up", str(folder / "warm-up"), {})
        del seconds["warm-up"]
        for number in range(rounds):
            cases = [(store, delay) for delay in delays for store in (gs, s3)]
            run("disk", str(folder / f"run-{number}"), {})
            for store, delay in cases if number % 2 == 0 else reversed(cases):
                run_in(store, delay, number)
    return seconds, counts


def _print(seconds: dict[str, list[float]], counts: dict[str, dict[str, int]]) -> None:
    print(f"| store | objects | requests | an object | {' | '.join(KINDS)} |\n|{'---|' * (4 + len(KINDS))}")
    for scheme, of in counts.items():
        total = sum(of.get(kind, 0) for kind in KINDS)
        print(f"| {scheme}:// | {of['objects']} | {total} | {total / of['objects']:.2f} | "
              f"{' | '.join(str(of.get(kind, 0)) for kind in KINDS)} |")
    print("\n| work folder | seconds (median) | beside the disk |\n|---|---|---|")
    for what, values in seconds.items():
        ratio = statistics.median(value / disk for value, disk in zip(values, seconds["disk"], strict=True))
        print(f"| {what} | {statistics.median(values):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
