"""Draws figures as inline SVG. Colours come from the page's CSS, so figures follow the light and dark themes."""

import dataclasses
import html
import io
import math
import re
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ilf_jax.reporting import tables

# Placeholder colours for matplotlib. In the SVG each becomes a CSS variable, which colors.css sets for light and dark.
# Markers and dashes differ too, so that no figure depends on colour alone.
INK, GRID = "#0a0b01", "#0a0b02"
SERIES = [f"#0a0b1{i}" for i in range(7)]
_CSS = {INK: "var(--ink)", GRID: "var(--rule)", **{color: f"var(--series-{i})" for i, color in enumerate(SERIES)}}
MARKERS = "osD^vPX"
_LEGEND_HANDLE, _POINTS_A_LETTER = 45.0, 5.2  # of a legend's entry, in points
_INCHES_A_BAR = 0.19
_MOST_BARS = 4  # of a group
_MAX_TICKS = 8  # of a logarithmic axis; up to this many measured values get a tick each
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ilf",
    "text.parse_math": False,  # a $ in a name is a $
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
    """A figure.

    Attributes:
        name: unique in the page.
        title: heading.
        caption: how to read the figure.
        svg: the <svg> element.
        wide: whether it takes the whole width of the page, and scrolls on a narrow one.
    """

    name: str
    title: str
    caption: str
    svg: str
    wide: bool = False


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element: ids unique in the page, no fixed size, nothing external."""
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
    """The figure as the text of an SVG file, with the report's light and dark colours."""
    colors = (Path(__file__).parent / "colors.css").read_text(encoding="utf-8")
    ground = '<rect width="100%" height="100%" fill="var(--card)"/>'
    return plot.svg.replace(">", f">\n<style>\n{colors}</style>\n{ground}", 1) + "\n"


def make_axes(ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure of the default size. Call it within `matplotlib.rc_context(STYLE)`."""
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    axes.set_ylabel(ylabel)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend above the figure if there is more than one label, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        labels = [shortened(label) for label in labels]
        width = _LEGEND_HANDLE + _POINTS_A_LETTER * max(map(len, labels))
        columns = max(1, int(72 * figure.get_size_inches()[0] / width))
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(handles), columns))


def shortened(label: str, letters: int = 50) -> str:
    """A label that fits in a figure."""
    return label if len(label) <= letters else f"{label[: letters - 1]}…"


def _wrapped(labels: Iterable[str]) -> list[str]:
    """Labels beside horizontal bars, in two lines if need be."""
    return ["\n".join(textwrap.wrap(label, 22, max_lines=2, placeholder=" …")) for label in labels]


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of the numbers, the first and the last among them."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round()
    return [numbers[int(place)] for place in places]


def grouped_bars(figure: Figure, axes: Axes, groups: Mapping[str, Mapping[int, tuple[float, float]]]) -> None:
    """Horizontal bars: one group per label, one bar per iteration with (value, standard error), later ones darker.

    Of many iterations a few are shown, the first and the last among them.
    """
    numbers = _evenly(sorted({k for values in groups.values() for k in values}), _MOST_BARS)
    figure.set_size_inches(5.4, 0.9 + _INCHES_A_BAR * len(groups) * max(2, len(numbers) + 0.5))
    height = 0.8 / len(numbers)
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(visible=True)
    for i, k in enumerate(numbers):
        alpha = 0.4 + 0.6 * (i + 1) / len(numbers)
        for y, values in enumerate(groups.values()):
            if k not in values:
                continue
            value, error = values[k]
            bar_y = y + height * (i - (len(numbers) - 1) / 2)
            axes.barh(bar_y, value, height * 0.85, color=SERIES[0], alpha=alpha)
            if error:
                axes.errorbar(value, bar_y, xerr=error, color=INK, capsize=3, linewidth=1)
            axes.annotate(tables.number(value, like=1), (value + error, bar_y), (4, 0), textcoords="offset points",
                          va="center", fontsize=8)
        axes.barh(0, 0, color=SERIES[0], alpha=alpha, label=f"iteration {k}")
    axes.set_yticks(range(len(groups)), _wrapped(groups))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    add_legend(figure, axes)


def bars(axes: Axes, values: Mapping[str, tuple[float, float]]) -> None:
    """Horizontal bars, one per label, of (value, half the width of the error bar)."""
    like = max((abs(value) for value, _ in values.values()), default=0.0)
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(visible=True)
    for y, (value, error) in enumerate(values.values()):
        axes.barh(y, value, 0.6, color=SERIES[0])
        if error:
            axes.errorbar(value, y, xerr=error, color=INK, capsize=3, linewidth=1)
        axes.annotate(tables.number(value, like), (value + error, y), (4, 0), textcoords="offset points", va="center",
                      fontsize=8)
    axes.set_yticks(range(len(values)), _wrapped(values))
    axes.invert_yaxis()
    axes.margins(x=0.15)


@dataclasses.dataclass(frozen=True)
class Line:
    """Marks with standard errors, and an optional curve.

    Attributes:
        xs: x of the marks.
        ys: y of the marks.
        errors: standard errors; 0 draws none.
        curve: xs, ys, and the lower and upper bounds of a band (equal to ys if unknown).
        measured_to: the largest measured x; the curve is dashed beyond it.
        points: the single values behind each mark, drawn small.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    errors: Sequence[float]
    curve: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
    measured_to: float = math.inf
    points: Sequence[Sequence[float]] = ()


def _far_apart(xs: Sequence[float]) -> list[float]:
    """The subset of ascending positive numbers whose labels do not overlap on a logarithmic axis."""
    min_ratio = (xs[-1] / xs[0]) ** 0.06
    kept = [xs[0]]
    for x in xs[1:]:
        if x / kept[-1] >= min_ratio:
            kept.append(x)
    return kept


def _is_geometric(xs: Sequence[float]) -> bool:
    """Whether ascending numbers are for a logarithmic axis: a span above ten, or rather equal ratios than differences.

    32, 64, 128, 256 are, 1, 2, 3, 4 are not.
    """
    if xs[0] <= 0 or len(xs) < 2:
        return False
    if xs[-1] > 10 * xs[0]:
        return True
    ratios, differences = np.diff(np.log(xs)), np.diff(xs)
    return len(xs) > 2 and bool(np.std(ratios) / np.mean(ratios) < np.std(differences) / np.mean(differences))


def _plain_number(x: float) -> str:
    """100, 5k, 10M; 1,024 as it is."""
    text = matplotlib.ticker.EngFormatter(sep="")(x)
    return text if x < 1 or len(text) <= 4 else f"{x:,.0f}"


def line_plot(
    name: str, title: str, caption: str, xlabel: str, ylabel: str, lines: Mapping[str, Line],
    before: Mapping[str, Sequence[tuple[float, float]]] = types.MappingProxyType({}),
) -> Plot:
    """A figure of several lines. The x axis is logarithmic where the measured x ask for it.

    Args:
        name: see `Plot`.
        title: see `Plot`.
        caption: see `Plot`.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        lines: label -> line; a single line may have the label ''.
        before: label -> (x, y) of thin lines without marks, what the others are compared with.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = make_axes(ylabel)
        for i, (label, line) in enumerate(lines.items()):
            color = SERIES[i % 7]
            axes.errorbar(line.xs, line.ys, line.errors, label=label or None, color=color, marker=MARKERS[i % 7],
                          linestyle="none" if line.curve else DASHES[i % 7], markersize=6, capsize=3)
            for x, values in zip(line.xs, line.points, strict=False):
                axes.plot([x] * len(values), values, color=color, marker=MARKERS[i % 7], linestyle="none", markersize=3,
                          alpha=0.55)
            if line.curve:
                xs, ys, low, high = line.curve
                inside = [x <= line.measured_to for x in xs]
                axes.plot([x for x, k in zip(xs, inside, strict=True) if k],
                          [y for y, k in zip(ys, inside, strict=True) if k], color=color)
                axes.plot([x for x, k in zip(xs, inside, strict=True) if not k],
                          [y for y, k in zip(ys, inside, strict=True) if not k], color=color, linestyle="--")
                axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
        for i, (label, pairs) in enumerate(before.items()):
            color = INK if len(before) == 1 else SERIES[i % 7]
            if len(pairs) == 1:
                axes.axhline(pairs[0][1], label=label, color=color, linewidth=1, linestyle=":")
            else:
                axes.plot(*zip(*pairs, strict=True), label=label, color=color, linewidth=1, linestyle=":")
        all_xs = sorted({x for line in lines.values() for x in line.xs})
        if _is_geometric(all_xs):
            axes.set_xscale("log")
            ticks = _far_apart(all_xs)
            if len(ticks) <= _MAX_TICKS:
                axes.set_xticks(ticks)
            formatted = _plain_number if all_xs[0] >= 1 else "{:g}".format
            axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: formatted(x)))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.set_xlabel(xlabel)
        axes.margins(x=0.1, y=0.15)
        add_legend(figure, axes)
        return Plot(name, title, caption, to_svg(figure, name, title))
