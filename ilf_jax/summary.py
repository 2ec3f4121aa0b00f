"""The table at the end of a run: a row an iteration, ILF and its baselines side by side."""

import json
import pathlib
from typing import Any

from ilf_jax import progress
from ilf_jax.config import Config
from ilf_jax.tasks.base import Task

_CANDIDATES = ("win_rate", "nll_human_refinement", "nll_reference", "rouge_l")
_PICKERS = ("chosen", "random", "longest", "first")


def _read(path: pathlib.Path) -> dict[tuple[int, str, str], dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = map(json.loads, lines)
    return {(row["iteration"], row["stage"], row["metric"]): row for row in rows}


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['value']:.3f}" + ("" if row["stderr"] is None else f" ± {row['stderr']:.3f}")


def headline(config: Config, task: Task, metrics: dict[tuple[int, str, str], Any]) -> str:
    """The metric shown first: the configured one, the task's own, or the first that was measured."""
    wanted = (config.evaluate.headline, task.bad_metric, *_CANDIDATES)
    found = [name for name in wanted if any(key[1:] == ("evaluate", name) for key in metrics)]
    return found[0] if found else ""


def print_summary(workdir: pathlib.Path, config: Config, task: Task) -> None:
    """Prints the headline of every iteration for ILF and its arms, and how good each way to pick a refinement was."""
    ours = _read(workdir / "metrics.jsonl")
    arms = {target: _read(workdir / "compare" / target / "metrics.jsonl") for target in config.compare}
    name = headline(config, task, ours)
    pickers = [p for p in _PICKERS if any(key[2] == f"exact_match_{p}" for key in ours)]
    label = "ILF" if config.finetune.target == "refinement" else config.finetune.target
    columns = ["iteration", *([f"{name}: {label}", *(f"finetuned on {t}" for t in arms)] if name else []),
               *(["refinements right"] if pickers else []), *(f"picked by {_picker(p, config)}" for p in pickers)]
    rows = []
    for k in range(config.iterations + 1):
        row = [str(k)]
        if name:
            row += [_cell(m.get((k, "evaluate", name))) for m in (ours, *arms.values())]
        if pickers:
            row.append(_cell(ours.get((k, "refine", "exact_match"))))
        row += [_cell(ours.get((k, "score", f"exact_match_{p}"))) for p in pickers]
        rows.append(row)
    progress.print_table(f"{config.task}: {config.iterations} iterations", columns, rows)


def _picker(name: str, config: Config) -> str:
    return config.score.method if name == "chosen" else name
