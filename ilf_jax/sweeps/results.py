"""What came out of a sweep: one row for each setting, averaged over seeds, and a power law over its axis."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilf_jax.evaluation import scaling, statistics
from ilf_jax.runtime.files import read_json_lines
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps import runner
from ilf_jax.sweeps.grid import Cell, Sweep


@dataclasses.dataclass(frozen=True)
class Number:
    """One metric of one setting.

    Attributes:
        value: mean over the seeds.
        stderr: from the spread over seeds; of one seed, that of its run; None where neither is known.
        seeds: the values of the seeds that are there.
    """

    value: float
    stderr: float | None
    seeds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting: what its cells override, seed apart, and each metric that any of them has measured so far."""

    setting: Cell
    numbers: dict[str, Number]
    complete: int  # cells
    cells: int


def collect(sweep: Sweep, workdir: Path) -> list[Row]:
    """A row for each setting, in the sweep's order. Cells that are not complete add nothing but to the count."""
    groups: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        groups.setdefault(cells_lib.name(_setting(sweep, cell)), []).append(cell)
    rows = []
    for members in groups.values():
        done = [cell for cell in members if runner.is_done(workdir, cell)]
        found = [_last_metrics(runner.cell_folder(workdir, cell)) for cell in done]
        numbers = {metric: _number([one[metric] for one in found if metric in one])
                   for metric in sweep.metrics if any(metric in one for one in found)}
        rows.append(Row(_setting(sweep, members[0]), numbers, len(done), len(members)))
    return rows


def _setting(sweep: Sweep, cell: Cell) -> Cell:
    return {key: value for key, value in cell.items() if key != sweep.seed}


def _last_metrics(folder: Path) -> dict[str, tuple[float, float | None]]:
    """"stage/metric" -> (value, standard error), of the last iteration that has it."""
    found: dict[str, tuple[float, float | None]] = {}
    for _, row in read_json_lines(folder / "metrics.jsonl"):
        found[f"{row['stage']}/{row['metric']}"] = (row["value"], row["stderr"])
    return found


def _number(found: Sequence[tuple[float, float | None]]) -> Number:
    values = tuple(value for value, _ in found)
    mean = statistics.mean("seeds", values)
    return Number(mean.value, mean.stderr if len(values) > 1 else found[0][1], values)


def table(sweep: Sweep, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: settings down, metrics across with their standard errors, and how many seeds that is."""
    keys = setting_keys(rows)
    heads = [*map(cells_lib.spoken, keys), *(name(sweep, metric) for metric in sweep.metrics), "seeds"]
    lines = []
    for row in rows:
        numbers = [shown(row.numbers.get(metric)) for metric in sweep.metrics]
        seeds = str(row.cells) if row.complete == row.cells else f"{row.complete} of {row.cells}"
        lines.append([*(str(row.setting.get(key, "")) for key in keys), *numbers, seeds])
    return heads, lines


def name(sweep: Sweep, metric: str) -> str:
    """A metric without its stage, if no other of the sweep's is called alike."""
    short = metric.rpartition("/")[2]
    return metric if [m.rpartition("/")[2] for m in sweep.metrics].count(short) > 1 else short


def setting_keys(rows: Sequence[Row]) -> list[str]:
    """All keys that any setting overrides."""
    return list(dict.fromkeys(key for row in rows for key in row.setting))


def markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """`table` as Markdown."""
    heads, lines = table(sweep, rows)
    shown_lines = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    return "\n".join([shown_lines[0], "|---" * len(heads) + "|", *shown_lines[1:]]) + "\n"


def shown(number: Number | None) -> str:
    """A number with its standard error; a dash where there is none."""
    if number is None:
        return "–"
    return f"{number.value:.3f}" if number.stderr is None else f"{number.value:.3f} ± {number.stderr:.3f}"


@dataclasses.dataclass(frozen=True)
class Point:
    """One mark of the figure."""

    x: float
    number: Number


def lines(sweep: Sweep, rows: Sequence[Row], metric: str) -> dict[str, list[Point]]:
    """What the figure shows: a line for each setting of all but the x axis, its points by x. {} without an x axis.

    A line is called by its setting; by the value alone where all set one key, and "" where it is the only one.
    """
    keys = [key for key in setting_keys(rows) if key != sweep.x]
    found: dict[str, list[Point]] = {}
    for row in rows if sweep.x is not None else ():
        x = row.setting.get(sweep.x)
        x = sweep.x_numbers.get(str(x), x)
        if metric in row.numbers and isinstance(x, (int, float)):
            others = {key: value for key, value in row.setting.items() if key != sweep.x}
            label = cells_lib.name(others) if len(keys) > 1 else "".join(map(str, others.values()))
            found.setdefault(label, []).append(Point(float(x), row.numbers[metric]))
    return {label: sorted(points, key=lambda p: p.x) for label, points in found.items()}


def lines_side_by_side(sweep: Sweep, rows: Sequence[Row]) -> dict[str, list[Point]]:
    """`lines` of the metric `sweep.side_by_side` of all stages that have it; of all but the first they say which."""
    found = {}
    metrics = [metric for metric in sweep.metrics if metric.rpartition("/")[2] == sweep.side_by_side]
    for i, metric in enumerate(metrics):
        stage = metric.partition("/")[0] if i else ""
        for label, points in lines(sweep, rows, metric).items():
            found[", ".join(part for part in (label, stage) if part)] = points
    return found


@dataclasses.dataclass(frozen=True)
class Fit:
    """A power law through one line of the figure, or why there is none."""

    law: scaling.PowerLaw | None
    draws: tuple[scaling.PowerLaw, ...]  # bootstrap over seeds; () where there is one seed only
    why_not: str | None


def fit(points: Sequence[Point]) -> Fit:
    """Fits all seeds' values."""
    values = {p.x: [v for v in p.number.seeds if not math.isnan(v)] for p in points}
    try:
        law = scaling.fit([x for x, ys in values.items() for _ in ys], [y for ys in values.values() for y in ys])
        several = all(len(ys) > 1 for ys in values.values())
        return Fit(law, tuple(scaling.bootstrap(values, law)) if several else (), None)
    except ValueError as e:
        return Fit(None, (), str(e))


def to_json(sweep: Sweep, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table's numbers."""
    return [{"setting": {key: str(value) if isinstance(value, cells_lib.Named) else value
                         for key, value in row.setting.items()}, "complete": row.complete, "cells": row.cells,
             "numbers": {name: dataclasses.asdict(number) for name, number in row.numbers.items()}} for row in rows]
