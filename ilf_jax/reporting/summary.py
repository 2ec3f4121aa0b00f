"""The table at the end of a run: a row an iteration, ILF and its baselines side by side."""

from pathlib import Path

from ilf_jax.reporting import tables, workfolder
from ilf_jax.reporting.workfolder import WorkFolder
from ilf_jax.runtime import progress

_PICKERS = ("chosen", *tables.BASELINES)


def print_summary(workdir: str | Path) -> None:
    """Prints the headline of every iteration for ILF and its baselines, and how good each scorer's picks were."""
    work = workfolder.read(workdir)
    progress.print_table(f"{work.config['task']}: {work.config['iterations']} iterations", *summary(work))


def summary(work: WorkFolder) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table."""
    lead = tables.headline(work)
    pickers = [p for p in _PICKERS if f"exact_match_{p}" in work.names("score")]
    target = work.config["finetune"]["target"]
    best = {label: system for label, system in tables.systems(work).items() if system[1] == "best_of_n"}
    columns = ["iteration"]
    if lead:
        columns.append(f"{lead}: {tables.ILF if target == 'refinement' else target}")
        columns += [f"{lead}: on {tables.TARGET_LABELS.get(name, name)}" for name in work.baselines]
        columns += [f"{lead}: {label}" for label in best]
    if pickers:
        method = work.config["score"]["method"].rpartition(":")[2]  # of file:PATH:NAME the name
        columns.append("refinements right")
        columns += [f"picked by {method if p == 'chosen' else p}" for p in pickers]
    rows = []
    for iteration in work.iterations:
        k = iteration.number
        row = [str(k)]
        if lead:
            row += [tables.with_error(w.value(k, "evaluate", lead)) for w in (work, *work.baselines.values())]
            row += [tables.with_error(w.value(k, stage, lead)) for w, stage in best.values()]
        if pickers:
            row.append(tables.with_error(work.value(k, "refine", "exact_match")))
        row += [tables.with_error(work.value(k, "score", f"exact_match_{p}")) for p in pickers]
        rows.append(row)
    return columns, rows
