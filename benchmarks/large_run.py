"""How long does a stage of a large run take to its first batch, and how much memory?

    python benchmarks/large_run.py [--documents=100000] [--workdir=DIR] [--json=FILE]

Runs one iteration of configs/quickstart.py without baselines on that many short documents: one candidate, 8 new tokens,
1,000 steps of training, 128 held-out documents. Run again with the same --workdir, it resumes. Prints for each stage
the seconds to its first batch, those of the whole stage, and the peak memory of the process up to its end.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

_STEPS = 1000
_HELD_OUT = 128


def config_of(documents: int) -> Any:
    """The quickstart's, for that many documents."""
    from configs import quickstart

    config = quickstart.get_config()
    config.iterations, config.baselines = 1, ()
    config.data.source = f"builtin:word_removal:{documents}"
    config.data.train_size, config.data.eval_size = documents, _HELD_OUT
    config.draft.max_new_tokens = config.refine.max_new_tokens = config.evaluate.max_new_tokens = 8
    config.draft.batch_size = config.refine.batch_size = config.score.batch_size = 64
    config.refine.num_candidates = 1
    config.finetune.batch_size = max(1, documents // _STEPS)
    return config


def measured(folder: Path) -> list[dict[str, Any]]:
    """Of each stage that has run: its name, seconds to the first batch and in all, peak MiB of the process so far."""
    stages: dict[tuple[int, str], dict[str, float]] = {}
    for line in (folder / "performance.jsonl").read_text().splitlines():
        row = json.loads(line)
        stages.setdefault((row["iteration"], row["stage"]), {})[row["metric"].removeprefix("performance/")] = (
            row["value"])
    return [{"stage": f"{stage} {k}", "first_batch_s": cost.get("first_batch_seconds"), "seconds": cost["seconds"],
             "peak_mib": cost["peak_memory"] / 2**20} for (k, stage), cost in stages.items() if "seconds" in cost]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    import ilf_jax
    from ilf_jax.runtime import performance

    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as temporary:
        folder = flags.workdir or Path(temporary)
        start = time.monotonic()
        ilf_jax.run(config_of(flags.documents), folder)
        rows, seconds = measured(folder), time.monotonic() - start
        report = (folder / "report.html").stat().st_size
    print("| stage | s to its first batch | s | peak MiB so far |\n|---|---|---|---|")
    for row in rows:
        first = "" if row["first_batch_s"] is None else f"{row['first_batch_s']:.1f}"
        print(f"| {row['stage']} | {first} | {row['seconds']:.1f} | {row['peak_mib']:.0f} |")
    peak = performance.peak_memory()
    print(f"\n{flags.documents} documents, this process: {seconds:.0f} s, peak {peak / 2**20:.0f} MiB; report "
          f"{report / 1000:.0f} KB")
    if flags.json:
        flags.json.write_text(json.dumps({"documents": flags.documents, "stages": rows, "seconds": seconds,
                                          "peak_mib": peak / 2**20, "report_bytes": report}, indent=2))


if __name__ == "__main__":
    main()
