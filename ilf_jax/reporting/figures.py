"""How figures are drawn: inline SVG whose colours come from the page's CSS, so that they suit light and dark."""

import dataclasses
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ilf_jax.reporting import tables

# matplotlib draws in these stand-ins; in the SVG each becomes the CSS variable that colors.css sets for light and for
# dark. Markers and dashes differ too, so that nothing hangs on colour alone.
INK, GRID = "#0a0b01", "#0a0b02"
SERIES = [f"#0a0b1{i}" for i in range(7)]
_CSS = {INK: "var(--ink)", GRID: "var(--rule)", **{color: f"var(--series-{i})" for i, color in enumerate(SERIES)}}
MARKERS = "osD^vPX"
_MOST_TICKS = 8  # of a logarithmic axis, where what was measured is marked
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ilf",
    "text.parse_math": False,  # a name with $ in it is a name
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure: its name (unique in the page), its heading, a line on how to read it, and the SVG element."""

    name: str
    title: str
    caption: str
    svg: str


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element: no ids shared with other figures, no size of its own, nothing external."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for color, variable in _CSS.items():
        text = text.replace(color, variable)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def standalone(plot: Plot) -> str:
    """The figure as the text of an SVG file, in the report's colours, light and dark."""
    colors = (Path(__file__).parent / "colors.css").read_text(encoding="utf-8")
    ground = '<rect width="100%" height="100%" fill="var(--card)"/>'
    return plot.svg.replace(">", f">\n<style>\n{colors}</style>\n{ground}", 1) + "\n"


def make_axes(ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure of the usual size; within `matplotlib.rc_context(STYLE)`."""
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    axes.set_ylabel(ylabel)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Above the figure, where there is more than one thing to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        columns = 3 if max(map(len, labels)) < 20 else 2  # longer ones would leave the figure
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(handles), columns))


def grouped_bars(figure: Figure, axes: Axes, groups: Mapping[str, Mapping[int, tuple[float, float]]]) -> None:
    """Lying bars: a group a label, in it a bar an iteration with (value, standard error), the later the stronger."""
    numbers = sorted({k for values in groups.values() for k in values})
    height = 0.8 / len(numbers)
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(visible=True)
    for i, k in enumerate(numbers):
        for y, values in enumerate(groups.values()):
            if k not in values:
                continue
            value, error = values[k]
            at = y + height * (i - (len(numbers) - 1) / 2)
            strength = 0.4 + 0.6 * (i + 1) / len(numbers)
            axes.barh(at, value, height * 0.85, color=SERIES[0], alpha=strength)
            if error:
                axes.errorbar(value, at, xerr=error, color=INK, capsize=3, linewidth=1)
            axes.annotate(
                tables.number(value), (value + error, at), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.barh(0, 0, color=SERIES[0], alpha=0.4 + 0.6 * (i + 1) / len(numbers), label=f"iteration {k}")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    add_legend(figure, axes)


def bars(axes: Axes, values: Mapping[str, tuple[float, float]]) -> None:
    """Lying bars, one a label, of (value, standard error)."""
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(visible=True)
    for y, (value, error) in enumerate(values.values()):
        axes.barh(y, value, 0.6, color=SERIES[0])
        if error:
            axes.errorbar(value, y, xerr=error, color=INK, capsize=3, linewidth=1)
        axes.annotate(tables.number(value), (value + error, y), (4, 0), textcoords="offset points", va="center",
                      fontsize=8)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()


@dataclasses.dataclass(frozen=True)
class Line:
    """Marks with standard errors (0: none), and, where there is one, a curve through them.

    Attributes:
        curve: xs, ys, and the bounds of a band around them (equal to ys where it is not known).
        known_to: the largest x that was measured; beyond it the curve is dashed.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    errors: Sequence[float]
    curve: tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]] | None = None
    known_to: float = math.inf


def _far_apart(xs: Sequence[float]) -> list[float]:
    """Those of ascending numbers above 0 whose marks on a logarithmic axis leave each other room for a label."""
    least = (xs[-1] / xs[0]) ** 0.06
    kept = [xs[0]]
    for x in xs[1:]:
        if x / kept[-1] >= least:
            kept.append(x)
    return kept


def line_plot(name: str, title: str, caption: str, xlabel: str, ylabel: str, lines: Mapping[str, Line]) -> Plot:
    """A figure of several lines; the x axis is logarithmic where it spans more than a factor of ten."""
    with matplotlib.rc_context(STYLE):
        figure, axes = make_axes(ylabel)
        for i, (label, line) in enumerate(lines.items()):
            color = SERIES[i % 7]
            axes.errorbar(line.xs, line.ys, line.errors, label=label or None, color=color, marker=MARKERS[i % 7],
                          linestyle="none" if line.curve else DASHES[i % 7], markersize=6, capsize=3)
            if line.curve:
                xs, ys, low, high = line.curve
                inside = [x <= line.known_to for x in xs]
                axes.plot([x for x, k in zip(xs, inside, strict=True) if k],
                          [y for y, k in zip(ys, inside, strict=True) if k], color=color)
                axes.plot([x for x, k in zip(xs, inside, strict=True) if not k],
                          [y for y, k in zip(ys, inside, strict=True) if not k], color=color, linestyle="--")
                axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
        every = [x for line in lines.values() for x in line.xs]
        if min(every) > 0 and max(every) > 10 * min(every):
            axes.set_xscale("log")
            marked = _far_apart(sorted(set(every)))
            if len(marked) <= _MOST_TICKS:
                axes.set_xticks(marked)
            axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep="") if min(every) >= 1  # 100, 5k, 10M
                                           else matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.set_xlabel(xlabel)
        axes.margins(x=0.1, y=0.15)
        add_legend(figure, axes)
        return Plot(name, title, caption, to_svg(figure, name, title))
