"""Does a document cost the same in a small run and in a large one?

    python benchmarks/cost_per_document.py [--documents=32,128,512] [--json=FILE]

One iteration of configs/quickstart.py, without arms to compare with, on so many documents; each number in a process of
its own. A first run there counts the programs that were compiled, a second one is timed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for a script Python puts only its own folder there

_STAGES = ("draft", "feedback", "refine", "score", "finetune")
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def measure(documents: int) -> dict[str, Any]:
    """In this process: programs that the stages needed, and each stage's milliseconds a document when all are there."""
    import ilf_jax
    from configs import quickstart

    config = quickstart.get_config()
    config.iterations, config.compare, config.data.train_size = 1, (), documents
    config.draft.batch_size = 32  # as the other stages have it: 32 documents fill one batch
    costs = []
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as folder:
            ilf_jax.run(config, folder)
            stages = Path(folder) / "iteration_001"
            costs.append({s: json.loads((stages / s / "manifest.json").read_text())["cost"] for s in _STAGES})
    first, second = costs
    if any(cost["compilations"] + cost["cache_hits"] for cost in second.values()):
        raise RuntimeError("the second run compiled programs, so its times are not of the work alone")
    return {
        "programs": sum(cost["compilations"] + cost["cache_hits"] for cost in first.values()),
        "ms": {stage: 1000 * cost["seconds"] / documents for stage, cost in second.items()},
    }


def markdown(results: dict[int, dict[str, Any]]) -> str:
    """A table of milliseconds a document, and how far the dearest is above the cheapest."""
    names = ["documents", *_STAGES, "all, ms a document", "programs"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    total = {documents: sum(result["ms"].values()) for documents, result in results.items()}
    for documents, result in results.items():
        cells = [f"{result['ms'][stage]:.1f}" for stage in _STAGES]
        lines.append(f"| {documents} | {' | '.join(cells)} | {total[documents]:.1f} | {result['programs']} |")
    spread = max(total.values()) / min(total.values()) - 1
    return "\n".join([*lines, "", f"Dearest over cheapest: {spread:+.1%}"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="32,128,512", help="numbers of documents")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure)))
        return
    results = {}
    for documents in map(int, flags.documents.split(",")):
        done = subprocess.run(
            [sys.executable, __file__, f"--measure={documents}"], stdout=subprocess.PIPE, text=True, check=True,
            env={**os.environ, **_ENVIRONMENT})
        results[documents] = json.loads(done.stdout.splitlines()[-1])
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
