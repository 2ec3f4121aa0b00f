"""Results of a sweep: one row per setting, averaged over seeds, and power laws over the x axis."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax.evaluation import scaling, statistics
from ilf_jax.reporting import markdown as markdown_lib
from ilf_jax.reporting import tables, workfolder
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines
from ilf_jax.sweeps import folders
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps.grid import Cell, Sweep


@dataclasses.dataclass(frozen=True)
class Number:
    """One metric of one setting.

    Attributes:
        value: mean over the seeds.
        stderr: standard error over seeds; for a single seed, that of its run; None if unknown.
        seeds: the value of each complete seed.
    """

    value: float
    stderr: float | None
    seeds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        setting: overrides of its cells, without the seed.
        numbers: metric -> number, for each metric that a complete cell has.
        complete: number of complete cells.
        cells: number of cells.
        before: metric -> its value before training, mean over the seeds; of the metrics that were measured then.
        members: the complete cells.
        waiting: number of cells that wait for people to write feedback.
    """

    setting: Cell
    numbers: dict[str, Number]
    complete: int
    cells: int
    before: dict[str, float] = dataclasses.field(default_factory=dict)
    members: tuple[Cell, ...] = ()
    waiting: int = 0


def collect(sweep: Sweep, workdir: storage.Path) -> list[Row]:
    """A row per setting, in the sweep's order. Incomplete cells count only towards `Row.cells`."""
    groups: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        setting = repr([(key, str(value)) for key, value in _setting(sweep, cell).items()])
        groups.setdefault(setting, []).append(cell)
    rows = []
    for members in groups.values():
        done = [cell for cell in members if folders.is_done(workdir, cell)]
        measured = [_metrics(folders.cell_folder(workdir, cell)) for cell in done]
        last, before = ([metrics_of_cell[i] for metrics_of_cell in measured] for i in (0, 1))
        numbers = {metric: _number([metrics[metric] for metrics in last if metric in metrics])
                   for metric in sweep.metrics if any(metric in metrics for metrics in last)}
        untrained = {metric: _number([metrics[metric] for metrics in before]).value for metric in sweep.metrics
                     if before and all(metric in metrics for metrics in before)}
        waiting = sum(folders.waits(workdir, cell) for cell in members)
        rows.append(Row(_setting(sweep, members[0]), numbers, len(done), len(members), untrained, tuple(done), waiting))
    return rows


def runs_with_baselines(sweep: Sweep, workdir: storage.Path) -> dict[str, list[workfolder.WorkFolder]]:
    """The complete runs of each setting, one a seed, by the setting's name; settings without baselines are left out."""
    found: dict[str, list[workfolder.WorkFolder]] = {}
    for cell in sweep.cells:
        folder = folders.cell_folder(workdir, cell)
        if folders.is_done(workdir, cell) and (folder / "baselines").is_dir():
            setting = _setting(sweep, cell)
            found.setdefault(cells_lib.name(setting) if setting else "", []).append(workfolder.read(folder))
    return found


def _setting(sweep: Sweep, cell: Cell) -> Cell:
    return {key: value for key, value in cell.items() if key != sweep.seed}


_Metrics = dict[str, tuple[float, float | None]]
"""stage/metric -> (value, standard error)"""


def _metrics(folder: storage.Path) -> tuple[_Metrics, _Metrics]:
    """Those of the last iteration that has them, and those of iteration 0."""
    last: _Metrics = {}
    before: _Metrics = {}
    for _, row in read_json_lines(folder / "metrics.jsonl"):
        name, value = f"{row['stage']}/{row['metric']}", (row["value"], row["stderr"])
        last[name] = value
        if row["iteration"] == 0:
            before[name] = value
    return last, before


def _number(values_with_errors: Sequence[tuple[float, float | None]]) -> Number:
    values = tuple(value for value, _ in values_with_errors)
    mean = statistics.mean("seeds", values)
    return Number(mean.value, mean.stderr if len(values) > 1 else values_with_errors[0][1], values)


def table(sweep: Sweep, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Column heads and rows: the setting, each metric with its standard error, and the number of seeds."""
    keys = setting_keys(rows)
    heads = [*map(cells_lib.spoken, keys), *(name(sweep, metric) for metric in sweep.metrics), "seeds"]
    lines = []
    columns = [[_metric(row.numbers.get(metric)) for row in rows] for metric in sweep.metrics]
    likes = [tables.largest(column) for column in columns]
    for row, *cells in zip(rows, *columns, strict=True):
        numbers = map(tables.with_error, cells, likes)
        seeds = str(row.cells) if row.complete == row.cells else f"{row.complete} of {row.cells}"
        seeds += f", {row.waiting} waiting for feedback" if row.waiting else ""
        lines.append([*(str(row.setting.get(key, "")) for key in keys), *numbers, seeds])
    return heads, lines


def _metric(number: Number | None) -> workfolder.Metric | None:
    return None if number is None else workfolder.Metric(0, "", "", number.value, number.stderr)


def name(sweep: Sweep, metric: str) -> str:
    """A metric's name without its stage, unless another metric of the sweep has the same name."""
    short = metric.rpartition("/")[2]
    return metric if [m.rpartition("/")[2] for m in sweep.metrics].count(short) > 1 else short


def setting_keys(rows: Sequence[Row]) -> list[str]:
    """All keys that any setting overrides."""
    return list(dict.fromkeys(key for row in rows for key in row.setting))


def markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """`table` as Markdown."""
    return markdown_lib.table(*table(sweep, rows))


@dataclasses.dataclass(frozen=True)
class Point:
    """One mark of a figure. `before` is the metric's value before training, None where it was not measured."""

    x: float
    number: Number
    before: float | None = None


def lines(sweep: Sweep, rows: Sequence[Row], metric: str) -> dict[str, list[Point]]:
    """The figure's lines: one for each setting of the keys other than x, with points sorted by x. {} without an x axis.

    A line's label is its setting, or the value alone if there is only one other key, or '' if there is none.
    """
    keys = [key for key in setting_keys(rows) if key != sweep.x]
    points_by_label: dict[str, list[Point]] = {}
    if sweep.x is None:
        return {}
    for row in rows:
        setting = row.setting.get(sweep.x)
        x = sweep.x_numbers.get(str(setting), setting)
        if metric in row.numbers and isinstance(x, (int, float)):
            others = {key: value for key, value in row.setting.items() if key != sweep.x}
            label = cells_lib.name(others) if len(keys) > 1 else "".join(map(str, others.values()))
            point = Point(float(x), row.numbers[metric], row.before.get(metric))
            points_by_label.setdefault(label, []).append(point)
    return {label: sorted(points, key=lambda p: p.x) for label, points in points_by_label.items()}


def lines_side_by_side(sweep: Sweep, rows: Sequence[Row]) -> dict[str, list[Point]]:
    """`lines` of the metric `sweep.side_by_side` in every stage that has it. Labels name each stage after the first."""
    points_by_label = {}
    metrics = [metric for metric in sweep.metrics if metric.rpartition("/")[2] == sweep.side_by_side]
    for i, metric in enumerate(metrics):
        stage = metric.partition("/")[0] if i else ""
        for label, points in lines(sweep, rows, metric).items():
            points_by_label[", ".join(part for part in (label, stage) if part)] = points
    return points_by_label


def before_training(lines_of_metric: Mapping[str, Sequence[Point]]) -> dict[str, list[tuple[float, float]]]:
    """(x, value before training) by line; one line, "before training", where all settings began alike.

    Settings begin alike where at each x all have the same value; otherwise each has a line of its own.
    """
    by_label = {label: [(p.x, p.before) for p in points if p.before is not None]
                for label, points in lines_of_metric.items()}
    by_label = {label: points for label, points in by_label.items() if points}
    at_x: dict[float, list[float]] = {}
    for points in by_label.values():
        for x, value in points:
            at_x.setdefault(x, []).append(value)
    if all(math.isclose(min(values), max(values), rel_tol=1e-6, abs_tol=1e-12) for values in at_x.values()):
        return {"before training": [(x, at_x[x][0]) for x in sorted(at_x)]} if at_x else {}
    return {f"{label}, before training": points for label, points in by_label.items()}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A power law fitted to one line of the figure.

    Attributes:
        law: the fit, or None.
        draws: bootstrap fits over seeds; () if some x has only one seed.
        why_not: why there is no fit, or None.
    """

    law: scaling.PowerLaw | None
    draws: tuple[scaling.PowerLaw, ...]
    why_not: str | None


def fit(points: Sequence[Point]) -> Fit:
    """Fits a power law to the values of all seeds."""
    values = {p.x: [v for v in p.number.seeds if not math.isnan(v)] for p in points}
    try:
        law = scaling.fit([x for x, ys in values.items() for _ in ys], [y for ys in values.values() for y in ys])
        several = all(len(ys) > 1 for ys in values.values())
        return Fit(law, tuple(scaling.bootstrap(values, law)) if several else (), None)
    except ValueError as e:
        return Fit(None, (), str(e))


def to_json(sweep: Sweep, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table as JSON values: a list with one object per row."""
    return [{"setting": {key: str(value) if isinstance(value, cells_lib.Named) else value
                         for key, value in row.setting.items()}, "complete": row.complete, "cells": row.cells,
             "waiting": row.waiting,
             "numbers": {name: dataclasses.asdict(number) for name, number in row.numbers.items()}} for row in rows]
