"""Does a document cost the same in a small run and in a large one?

    python benchmarks/cost_per_document.py [--documents=32,128,512] [--json=FILE]

One iteration of configs/quickstart.py, without arms to compare with, on so many documents, again and again: each number
of documents in a process of its own, until it has been through as many documents as the others, and all of them once
more, as the machine's speed drifts. The first third of a process's runs warms up (programs are compiled, which is
counted, and memory is new); the table has medians of the others. Saving the trained model takes the same time however
many documents there were: it is no cost of a document, and has a column of its own.
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
sys.path.insert(0, str(ROOT))  # for a script Python puts only its own folder there

_ROUNDS = 2
_RUNS = 3  # of the largest number of documents in a process
_STAGES = ("draft", "feedback", "refine", "score", "finetune")
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def measure(documents: int, runs: int) -> dict[str, Any]:
    """In this process: programs that the stages needed, and what each stage cost in the runs after the first third."""
    import ilf_jax
    from configs import quickstart

    config = quickstart.get_config()
    config.iterations, config.compare, config.data.train_size = 1, (), documents
    config.data.eval_size = 8  # is not looked at
    config.draft.batch_size = 32  # as the other stages have it: 32 documents fill one batch
    costs = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as folder:
            ilf_jax.run(config, folder)
            stages = Path(folder) / "iteration_001"
            costs.append({s: json.loads((stages / s / "manifest.json").read_text())["cost"] for s in _STAGES})
    first, timed = costs[0], costs[-(-runs // 3):]
    if any(cost["compilations"] + cost["cache_hits"] for run in timed for cost in run.values()):
        raise RuntimeError("a later run compiled programs, so its times are not of the work alone")
    return {
        "programs": sum(cost["compilations"] + cost["cache_hits"] for cost in first.values()),
        "ms": [{stage: 1000 * (cost["seconds"] - cost["saving_seconds"]) / documents for stage, cost in run.items()}
               for run in timed],
        "saving_ms": [1000 * sum(cost["saving_seconds"] for cost in run.values()) for run in timed],
    }


def markdown(results: dict[int, dict[str, Any]]) -> str:
    """A table of milliseconds a document, and how far the dearest is above the cheapest."""
    median = statistics.median
    names = ["documents", *_STAGES, "all, ms a document", "saving, ms a run", "programs"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    totals = {documents: median(sum(run.values()) for run in result["ms"]) for documents, result in results.items()}
    saving = {documents: median(result["saving_ms"]) for documents, result in results.items()}
    for documents, result in results.items():
        cells = [f"{median(run[stage] for run in result['ms']):.1f}" for stage in _STAGES]
        lines.append(f"| {documents} | {' | '.join(cells)} | {totals[documents]:.1f} | {saving[documents]:.0f} | "
                     f"{result['programs']} |")
    whole = {documents: totals[documents] + saving[documents] / documents for documents in totals}
    return "\n".join([*lines, "", f"Dearest over cheapest: {_spread(totals)}; with saving counted, {_spread(whole)}"])


def _spread(totals: dict[int, float]) -> str:
    return f"{max(totals.values()) / min(totals.values()) - 1:+.1%}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="32,128,512", help="numbers of documents")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(*flags.measure)))
        return
    results: dict[int, dict[str, Any]] = {}
    numbers = [int(number) for number in flags.documents.split(",")]
    for documents in numbers * _ROUNDS:
        runs = _RUNS * max(numbers) // documents
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(documents), str(runs)], stdout=subprocess.PIPE, text=True,
            check=True, env={**os.environ, **_ENVIRONMENT})
        found = json.loads(done.stdout.splitlines()[-1])
        before = results.setdefault(documents, {**found, "ms": [], "saving_ms": []})
        if found["programs"] != before["programs"]:
            raise RuntimeError(f"{documents} documents took {before['programs']} programs, then {found['programs']}")
        for name in ("ms", "saving_ms"):
            before[name] += found[name]
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
