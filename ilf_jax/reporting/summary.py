"""The table at the end of a run: a row an iteration, the run and its baselines side by side."""

from pathlib import Path

from ilf_jax.reporting import tables, verdict, workfolder
from ilf_jax.reporting.workfolder import Metric, WorkFolder
from ilf_jax.runtime import progress

_PICKERS = ("chosen", *tables.BASELINES)


def print_summary(workdir: str | Path) -> None:
    """Prints the headline of every iteration for the run and its baselines, how good each scorer's picks were, and what
    the report says first."""
    work = workfolder.read(workdir)
    count = work.config["iterations"]
    what = f"{count} iteration{'' if count == 1 else 's'}" if count else "reward model"
    progress.print_table(f"{work.config['task']}: {what}", *summary(work))
    print(verdict.read(work).headline, flush=True)


def summary(work: WorkFolder) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table."""
    lead = tables.headline(work)
    pickers = [p for p in _PICKERS if f"exact_match_{p}" in work.names("score")]
    columns: dict[str, list[Metric]] = {}
    if work.names("reward"):
        columns["reward model: accuracy"] = tables.series(work, "reward", "accuracy")
    if lead:
        own = tables.own_label(work)
        columns[f"{lead}: {own}"] = tables.series(work, "evaluate", lead)
        columns |= {f"{lead}: on {tables.TARGET_LABELS.get(name, name)}": tables.series(baseline, "evaluate", lead)
                    for name, baseline in work.baselines.items()}
        columns |= {f"{lead}: {label}": tables.series(run, stage, lead)
                    for label, (run, stage) in tables.systems(work).items() if stage == "best_of_n"}
    if pickers:
        method = work.config["score"]["method"].rpartition(":")[2]  # of file:PATH:NAME the name
        columns["refinements right"] = tables.series(work, "refine", "exact_match")
        columns |= {f"picked by {method if p == 'chosen' else p}": tables.series(work, "score", f"exact_match_{p}")
                    for p in pickers}
    numbers = [iteration.number for iteration in work.iterations]
    cells = [tables.cells(metrics, numbers) for metrics in columns.values()]
    return ["iteration", *columns], [[str(k), *row] for k, *row in zip(numbers, *cells, strict=True)]
