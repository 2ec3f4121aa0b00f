"""The sweep's report.html: one table, a figure for each metric (also as a file), and the fitted power laws."""

import re
import urllib.parse
from collections.abc import Sequence

import markupsafe
import numpy as np

from ilf_jax.evaluation import scaling
from ilf_jax.reporting import figures, html_report, methods, tables
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import write_atomically
from ilf_jax.sweeps import folders, results
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps.grid import Sweep

# Fitted curves extend to this multiple of the largest measured x.
_EXTRAPOLATION = 3.0


def build(sweep: Sweep, rows: Sequence[results.Row], workdir: storage.Path, title: str) -> storage.Path:
    """Writes `workdir/report.html` and `workdir/figures/*.svg` from the complete cells; returns the page's path."""
    lines_by_metric = {metric: results.lines(sweep, rows, metric) for metric in sweep.metrics}
    fitted = lines_by_metric[sweep.metrics[0]] if sweep.fit else {}
    fits = {label: results.fit(points) for label, points in fitted.items()}
    x = cells_lib.spoken(sweep.x or "")
    plots = [_plot(metric, results.name(sweep, metric), x, lines, fits if metric == sweep.metrics[0] else {})
             for metric, lines in lines_by_metric.items() if lines]
    lines = results.lines_side_by_side(sweep, rows)
    if lines:
        plots.insert(0, _plot("side by side", sweep.side_by_side or "", x, lines, {}))
    methods_tables = {}
    for setting, works in results.runs_with_baselines(sweep, workdir).items():
        methods_tables[setting] = methods.table(works)
        plot = methods.plot(works, re.sub(r"\W+", "_", f"methods {setting}").strip("_"))
        plots += [] if plot is None else [plot]
    for plot in plots:
        write_atomically(workdir / "figures" / f"{plot.name}.svg", figures.standalone(plot))
    text = html_report.template("sweep.html").render(
        title=title, config=sweep.config, cells=len(sweep.cells), complete=sum(row.complete for row in rows),
        missing=[cells_lib.name(cell) for cell in sweep.cells
                 if not folders.is_done(workdir, cell) and not folders.waits(workdir, cell)],
        waiting=[cells_lib.name(cell) for cell in sweep.cells if folders.waits(workdir, cell)],
        plots=[(plot, markupsafe.Markup(plot.svg)) for plot in plots],
        table=tables.Table(*results.table(sweep, rows), len(results.setting_keys(rows))),
        links=_links(sweep, rows), fits=_fit_table(fits) if fits else None, methods=methods_tables,
        script=html_report.Script.read("wide_tables.js"),
    )
    path = workdir / "report.html"
    write_atomically(path, text)
    return path


def _links(sweep: Sweep, rows: Sequence[results.Row]) -> list[list[tuple[str, str]]]:
    """(Text, address) of the reports of each row's complete cells."""
    linked = []
    for row in rows:
        names = [(f"seed {cell[sweep.seed]}" if sweep.seed in cell else "report", cells_lib.name(cell))
                 for cell in row.members]
        linked.append([(text, f"cells/{urllib.parse.quote(name)}/report.html") for text, name in names])
    return linked


def _fit_table(fits: dict[str, results.Fit]) -> tables.Table:
    rows = []
    for label, fit in fits.items():
        law = fit.law
        numbers = [f"{n:.3g}" for n in (law.a, law.b, law.c)] if law else ["–"] * 3
        rows.append([label or "all", *numbers, fit.why_not or ""])
    return tables.Table(["line", "a", "b", "c", "y = a x^-b + c"], rows)


def _plot(
    figure: str, metric: str, x: str, lines: dict[str, list[results.Point]], fits: dict[str, results.Fit]
) -> figures.Plot:
    plotted = {}
    for label, points in lines.items():
        xs = [p.x for p in points]
        curve: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
        fit = fits.get(label)
        if fit is not None and fit.law is not None:
            grid_xs = np.geomspace(min(xs), _EXTRAPOLATION * max(xs), 100)
            ys = fit.law(grid_xs)
            curve = (grid_xs, ys, *(scaling.interval(fit.draws, grid_xs) if fit.draws else (ys, ys)))
        numbers = [p.number for p in points]
        plotted[tables.spoken(label)] = figures.Line(
            xs, [n.value for n in numbers], [n.stderr or 0.0 for n in numbers], curve, max(xs),
            [n.seeds if len(n.seeds) > 1 else () for n in numbers])
    before = {tables.spoken(label): points for label, points in results.before_training(lines).items()}
    caption = "Error bars: one standard error."
    if any(len(p.number.seeds) > 1 for points in lines.values() for p in points):
        caption += " Small marks: the seeds."
    if any(line.curve for line in plotted.values()):
        caption += (" Curves: power laws with offset, dashed where extrapolated. Bands: the middle 90 % of fits to "
                    "bootstrap samples over seeds.")
    ylabel = tables.spoken(metric.replace("/", ": "))
    title = f"{ylabel.capitalize()} by {tables.spoken(x)}"
    name = re.sub(r"\W+", "_", figure).strip("_")
    return figures.line_plot(name, title, caption, tables.spoken(x), ylabel, plotted, before)
