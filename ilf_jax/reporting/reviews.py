"""What people did on the reviewing page, for the report: shares, time, classes, and how far they agree."""

import collections
import dataclasses
from typing import Any, Literal

from ilf_jax.data import reviewed
from ilf_jax.evaluation import agreement
from ilf_jax.records import REFINEMENT_BY
from ilf_jax.reporting.tables import Table
from ilf_jax.reporting.workfolder import WorkFolder


@dataclasses.dataclass(frozen=True)
class Reviews:
    """The section's tables, each empty where there is nothing to show."""

    work: Table
    classes: Table
    agreement: Table
    refinements: Table


def read(work: WorkFolder) -> Reviews:
    """From reviews.jsonl of each iteration, and its records. Raises InputError if one is damaged."""
    by_iteration = {}
    for iteration in work.iterations:
        path = work.path / f"iteration_{iteration.number:03d}" / "feedback" / reviewed.REVIEWS
        rows = {str(row.get("id")): row for _, row in reviewed.page_rows(path)}
        if rows:
            by_iteration[iteration.number] = (rows, len(iteration.examples))
    return Reviews(_work(by_iteration), _classes(by_iteration), _agreement(by_iteration), _refinements(work))


def _refinements(work: WorkFolder) -> Table:
    """How many documents were taught a refinement that a reviewer gave, by who wrote it."""
    lines = []
    for iteration in work.iterations:
        scored = iteration.rows("score").values()
        by = collections.Counter(row.overruled_by for row in scored)
        if by.keys() - {""}:
            lines.append([str(iteration.number), *(str(by[name]) for name in REFINEMENT_BY),
                          f"{1 - by[''] / len(scored):.0%}"])
    return Table(["iteration", "written by the reviewer", "taken over from the refiner", "taken over and edited",
                  "of all documents"], lines)


def _reviews(row: dict[str, Any]) -> list[dict[str, Any]]:
    found = row.get("reviews")
    return [r for r in found if isinstance(r, dict)] if isinstance(found, list) else []


def _work(by_iteration: dict[int, tuple[dict[str, Any], int]]) -> Table:
    lines = []
    for number, (rows, documents) in by_iteration.items():
        states = collections.Counter(row.get("status") for row in rows.values())
        reviews = [r for row in rows.values() for r in _reviews(row)]
        seconds = [float(r["seconds"]) for r in reviews
                   if r.get("status") == "submitted" and isinstance(r.get("seconds"), (int, float))]
        times = [f"{x:.0f}" for x in agreement.quartiles(seconds)] if seconds else ["–"] * 3
        total = max(documents, len(rows))
        lines.append([str(number), str(len({r.get("reviewer") for r in reviews})), f"{states['submitted']} of {total}",
                      f"{states['skipped'] / total:.0%}", *times])
    return Table(["iteration", "reviewers", "submitted", "skipped", "seconds, lower quartile", "median",
                  "upper quartile"], lines)


def _classes(by_iteration: dict[int, tuple[dict[str, Any], int]]) -> Table:
    counted = {number: collections.Counter(str(row["class"]) for row in rows.values() if row.get("class"))
               for number, (rows, _) in by_iteration.items()}
    names = sorted({name for counts in counted.values() for name in counts})
    rows = [[name, *(str(counts[name]) for counts in counted.values())] for name in names]
    return Table(["class", *(f"iteration {number}" for number in counted)], rows)


def _agreement(by_iteration: dict[int, tuple[dict[str, Any], int]]) -> Table:
    lines = []
    levels: dict[str, Literal["nominal", "ordinal"]] = {"class": "nominal", "rating": "ordinal"}
    for field, level in levels.items():
        said = {(number, i): {str(r.get("reviewer")): r[field] for r in _reviews(row) if r.get(field)}
                for number, (rows, _) in by_iteration.items() for i, row in rows.items()}
        for name, found in (("Krippendorff's alpha", agreement.alpha(said, level)),
                            ("Cohen's kappa", agreement.kappa(said))):
            if found is not None:
                lines.append([field, name, f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}", str(found.n)])
    return Table(["of", "coefficient", "value", "95 % interval", "items"], lines)
