"""The sweep's own report.html: one table, a figure for each metric (as a file too), and the power laws fitted."""

import re
from collections.abc import Sequence
from pathlib import Path

import markupsafe
import numpy as np

from ilf_jax.evaluation import scaling
from ilf_jax.reporting import figures, html_report, tables
from ilf_jax.runtime.files import write_atomically
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps import results, runner
from ilf_jax.sweeps.grid import Sweep

# How far beyond the last measured x a fitted curve is drawn.
_BEYOND = 3.0


def build(sweep: Sweep, rows: Sequence[results.Row], workdir: Path, title: str) -> Path:
    """Writes `workdir/report.html` and `workdir/figures/*.svg` from the complete cells; returns the page's path."""
    found = {metric: results.lines(sweep, rows, metric) for metric in sweep.metrics}
    fits = {label: results.fit(points) for label, points in found[sweep.metrics[0]].items()} if sweep.fit else {}
    x = cells_lib.spoken(sweep.x or "")
    drawn = [_plot(metric, results.name(sweep, metric), x, lines, fits if metric == sweep.metrics[0] else {})
             for metric, lines in found.items() if lines]
    lines = results.lines_side_by_side(sweep, rows)
    if lines:
        drawn.insert(0, _plot("side by side", sweep.side_by_side, x, lines, {}))
    for plot in drawn:
        write_atomically(workdir / "figures" / f"{plot.name}.svg", figures.standalone(plot))
    text = html_report.template("sweep.html").render(
        title=title, config=sweep.config, cells=len(sweep.cells), complete=sum(row.complete for row in rows),
        missing=[cells_lib.name(cell) for cell in sweep.cells if not runner.is_done(workdir, cell)],
        plots=[(plot, markupsafe.Markup(plot.svg)) for plot in drawn],
        table=tables.Table(*results.table(sweep, rows), len(results.setting_keys(rows))),
        fits=_fit_table(fits) if fits else None,
    )
    path = workdir / "report.html"
    write_atomically(path, text)
    return path


def _fit_table(fits: dict[str, results.Fit]) -> tables.Table:
    lines = []
    for label, fit in fits.items():
        law = fit.law
        shown = [f"{n:.3g}" for n in (law.a, law.b, law.c)] if law else ["–"] * 3
        lines.append([label or "all", *shown, fit.why_not or ""])
    return tables.Table(["line", "a", "b", "c", "y = a x^-b + c"], lines)


def _plot(
    figure: str, metric: str, x: str, lines: dict[str, list[results.Point]], fits: dict[str, results.Fit]
) -> figures.Plot:
    drawn = {}
    for label, points in lines.items():
        xs = [p.x for p in points]
        curve, fit = None, fits.get(label)
        if fit is not None and fit.law is not None:
            at = np.geomspace(min(xs), _BEYOND * max(xs), 100)
            ys = fit.law(at)
            curve = (at, ys, *(scaling.interval(fit.draws, at) if fit.draws else (ys, ys)))
        numbers = [p.number for p in points]
        drawn[tables.spoken(label)] = figures.Line(
            xs, [n.value for n in numbers], [n.stderr or 0.0 for n in numbers], curve, max(xs))
    caption = "Bars: one standard error."
    if any(line.curve for line in drawn.values()):
        caption += (" Curves: power laws with offset, dashed beyond what was measured; bands: nine tenths of the fits "
                    "to data drawn again from the seeds.")
    spoken = tables.spoken(metric.replace("/", ": "))
    title = f"{spoken.capitalize()} by {tables.spoken(x)}"
    return figures.line_plot(re.sub(r"\W+", "_", figure).strip("_"), title, caption, tables.spoken(x), spoken, drawn)
