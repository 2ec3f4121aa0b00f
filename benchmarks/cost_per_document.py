"""Does a document cost the same in a small run and in a large one?

    python benchmarks/cost_per_document.py [--documents=32,128,512] [--rounds=8] [--json=FILE]

Runs one iteration of configs/quickstart.py without baselines. Each size learns from that many documents and holds out
as many. All sizes take turns in one process, because the machine's speed drifts by more than the effect we look for. In
a turn, a small size runs as often as it takes to make up the largest, up to eight times. The first turn is a warm-up
(programs compile, memory is new); the table has medians of the others. Programs are counted separately, each size in
its own process. The cost of a stage includes everything that it does once per run. That includes saving the trained
model, which the evaluation waits for.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

_MAX_RUNS = 8  # of one size in a turn
_STAGES = ("draft", "feedback", "refine", "score", "finetune", "evaluate")
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def costs(documents: int) -> dict[str, dict[str, Any]]:
    """Cost of each stage of one iteration on `documents` documents, run in this process."""
    import ilf_jax
    from configs import quickstart

    config = quickstart.get_config()
    config.iterations, config.baselines, config.data.train_size = 1, (), documents
    config.data.eval_size = documents
    config.draft.batch_size = config.evaluate.batch_size = 32  # as in the other stages: 32 documents fill a batch
    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as folder:
        ilf_jax.run(config, folder)
        stages = Path(folder) / "iteration_001"
        return {s: json.loads((stages / s / "manifest.json").read_text())["cost"] for s in _STAGES}


def programs(documents: int) -> int:
    """Number of programs that the stages needed. Only right if it is the first call in a process."""
    return sum(cost["compilations"] + cost["cache_hits"] for cost in costs(documents).values())


def timed(numbers: list[int], rounds: int) -> dict[int, dict[str, Any]]:
    """Milliseconds per document in each run after the first turn, by stage, and the part of it spent on saving."""
    results: dict[int, dict[str, Any]] = {documents: {"ms": [], "saving_ms": []} for documents in numbers}
    for turn in range(1 + rounds):
        for documents, result in results.items():
            for _ in range(min(_MAX_RUNS, max(numbers) // documents)):
                run = costs(documents)
                if turn == 0:
                    continue
                if any(cost["compilations"] + cost["cache_hits"] for cost in run.values()):
                    raise RuntimeError("a timed run compiled programs, so its times include compilation")
                result["ms"].append({stage: 1000 * cost["seconds"] / documents for stage, cost in run.items()})
                result["saving_ms"].append(1000 * sum(cost["saving_seconds"] for cost in run.values()) / documents)
    return results


def markdown(results: dict[int, dict[str, Any]]) -> str:
    """A table of milliseconds per document, and how much more the most expensive size costs than the cheapest."""
    median = statistics.median
    names = ["documents", *(f"{stage}, ms" for stage in _STAGES), "all, ms per document", "of which saving, ms",
             "programs"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    totals = {documents: median(sum(run.values()) for run in result["ms"]) for documents, result in results.items()}
    for documents, result in results.items():
        cells = [f"{median(run[stage] for run in result['ms']):.1f}" for stage in _STAGES]
        lines.append(f"| {documents} | {' | '.join(cells)} | {totals[documents]:.1f} | "
                     f"{median(result['saving_ms']):.1f} | {result['programs']} |")
    spread = max(totals.values()) / min(totals.values()) - 1
    return "\n".join([*lines, "", f"Most expensive against cheapest: {spread:+.1%}"])


def _in_process(*flags: str) -> Any:
    """Runs this script with `flags` in a fresh process and returns the JSON on its last line."""
    process = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True,
                             env={**os.environ, **_ENVIRONMENT})
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="32,128,512", help="sizes to measure, in documents")
    parser.add_argument("--rounds", type=int, default=8, help="timed turns")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--programs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--timed", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    numbers = [int(number) for number in flags.documents.split(",")]
    if flags.programs:
        print(json.dumps(programs(flags.programs)))
        return
    if flags.timed:
        print(json.dumps(timed(numbers, flags.rounds)))
        return
    counted = {documents: _in_process(f"--programs={documents}") for documents in numbers}
    measured = _in_process("--timed", f"--documents={flags.documents}", f"--rounds={flags.rounds}")
    results = {documents: {**measured[str(documents)], "programs": counted[documents]} for documents in numbers}
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
