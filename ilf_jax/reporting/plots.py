"""The figures of the report as inline SVG whose colours come from the page's CSS, so that they suit light and dark."""

import dataclasses
import html
import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ilf_jax.reporting import tables
from ilf_jax.reporting.workfolder import Metric, WorkFolder

# matplotlib draws in these stand-ins; in the SVG each becomes the CSS variable that template.html sets for light and
# for dark. Markers and dashes differ too, so that nothing hangs on colour alone.
_INK, _GRID = "#0a0b01", "#0a0b02"
_SERIES = [f"#0a0b1{i}" for i in range(7)]
_CSS = {_INK: "var(--ink)", _GRID: "var(--rule)", **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES)}}
_MARKERS = "osD^vPX"
_DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
_MAX_POINTS = 300  # of a training curve; more make the page heavy and show nothing
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ilf",
    "text.parse_math": False,  # a name with $ in it is a name
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
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


def _svg(figure: Figure, name: str, title: str) -> str:
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


def _figure(ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    axes.set_ylabel(ylabel)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(handles), 3))


def _errors(metrics: Sequence[Metric]) -> list[float]:
    return [m.stderr if m.stderr is not None and math.isfinite(m.stderr) else 0.0 for m in metrics]


def _headline(work: WorkFolder) -> Plot | None:
    lead = tables.headline(work)
    if lead is None:
        return None
    figure, axes = _figure(tables.spoken(lead))
    by_label = {label: tables.series(run, "evaluate", lead) for label, run in tables.runs(work).items()}
    by_label = {label: metrics for label, metrics in by_label.items() if metrics}
    for i, (label, metrics) in enumerate(by_label.items()):
        shift = 0.03 * (i - (len(by_label) - 1) / 2)  # error bars beside, not on top of, each other
        axes.errorbar(
            [m.iteration + shift for m in metrics],
            [m.value for m in metrics],
            _errors(metrics),
            label=label,
            color=_SERIES[i % 7],
            marker=_MARKERS[i % 7],
            linestyle=_DASHES[i % 7],
            linewidth=2.4 if label == tables.ILF else 1.5,
            markersize=6,
            capsize=3,
        )
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.1, y=0.15)
    _legend(figure, axes)
    title = f"{tables.spoken(lead).capitalize()} by iteration"
    caption = ", ".join(filter(None, [tables.direction(lead), "bars are one standard error"]))
    return Plot("headline", title, caption.capitalize() + ".", _svg(figure, "headline", title))


def _grouped_bars(figure: Figure, axes: Axes, groups: Mapping[str, Mapping[int, tuple[float, float]]]) -> None:
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
            axes.barh(at, value, height * 0.85, color=_SERIES[0], alpha=strength)
            if error:
                axes.errorbar(value, at, xerr=error, color=_INK, capsize=3, linewidth=1)
            axes.annotate(
                tables.number(value), (value + error, at), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.barh(0, 0, color=_SERIES[0], alpha=0.4 + 0.6 * (i + 1) / len(numbers), label=f"iteration {k}")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    _legend(figure, axes)


def _scorers(work: WorkFolder) -> Plot | None:
    base = tables.accuracy_metric(work)
    if base is None:
        return None
    found = tables.scorer_accuracy(work, base)
    groups = {
        {"all": "all refinements"}.get(label, label): {
            m.iteration: (m.value, e) for m, e in zip(metrics, _errors(metrics), strict=True)
        }
        for label, metrics in found.items()
    }
    figure, axes = _figure("")
    _grouped_bars(figure, axes, groups)
    axes.set_xlabel(tables.spoken(base))
    title = "The scorer against its baselines"
    caption = f"{tables.spoken(base).capitalize()} of the picked refinements; bars are one standard error."
    return Plot("scorers", title, caption, _svg(figure, "scorers", title))


def _thinned(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """At most _MAX_POINTS points, each the mean of a run of neighbours."""
    size = math.ceil(len(xs) / _MAX_POINTS)
    starts = range(0, len(xs), size) if size else ()
    return tuple([sum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in (xs, ys))  # type: ignore


def _loss(work: WorkFolder) -> Plot | None:
    curves = {}
    for iteration in work.iterations:
        points = [(row["step"], row["loss"]) for row in iteration.steps if "step" in row]
        points = [(s, v) for s, v in points if isinstance(v, int | float) and math.isfinite(v)]
        if points:
            curves[f"iteration {iteration.number}"] = _thinned(*map(list, zip(*points, strict=True)))
    if not curves:
        return None
    figure, axes = _figure("loss (nats a token)")
    for i, (label, (xs, ys)) in enumerate(curves.items()):
        marker = _MARKERS[i % 7] if len(xs) < 30 else None
        axes.plot(xs, ys, label=label, color=_SERIES[i % 7], linestyle=_DASHES[i % 7], marker=marker, markersize=4)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes)
    title = "Training loss"
    return Plot("loss", title, "Finetuning on the selected refinements.", _svg(figure, "loss", title))


def _lengths(work: WorkFolder) -> Plot | None:
    """Words a text, of the last iteration that has refinements, and of what the policy writes before and after."""
    texts: dict[str, list[str]] = {}
    last = next((i for i in reversed(work.iterations) if i.rows("refine") or i.rows("draft")), None)
    if last is not None:
        texts["drafts"] = [r.text for r in last.rows("draft").values()]
        texts["refinements"] = [text for r in last.rows("refine").values() for text in r.texts]
        drawn = last.rows("refine")
        texts["chosen"] = [drawn[i].texts[s.chosen] for i, s in last.rows("score").items() if i in drawn]
    evaluated = [i for i in work.iterations if i.rows("evaluate")]
    if evaluated:
        texts["held out, before"] = [r.text for r in evaluated[0].rows("evaluate").values()]
        heldout = evaluated[-1].heldout.values()
        texts["references"] = [e.reference for e in heldout if e.reference]
    if len(evaluated) > 1:
        texts["held out, after"] = [r.text for r in evaluated[-1].rows("evaluate").values()]
    words = {label: [len(text.split()) for text in found] for label, found in texts.items() if found}
    if not words:
        return None
    figure, axes = _figure("")
    axes.grid(axis="x", visible=True)
    axes.grid(axis="y", visible=False)
    axes.boxplot(
        list(words.values()),
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        widths=0.55,
        boxprops={"facecolor": _SERIES[0], "edgecolor": _SERIES[0], "alpha": 0.45},
        whiskerprops={"color": _SERIES[0]},
        capprops={"color": _SERIES[0]},
        medianprops={"color": _INK, "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": _SERIES[1], "markeredgecolor": _SERIES[1], "markersize": 5},
    )
    axes.set_yticks(range(1, len(words) + 1), list(words))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("words")
    title = "Lengths"
    caption = "Box: the middle half; line: median; diamond: mean; whiskers: 5 % to 95 %."
    return Plot("lengths", title, caption, _svg(figure, "lengths", title))


def _rates(work: WorkFolder) -> Plot | None:
    found = tables.rates(work)
    if not found:
        return None
    figure, axes = _figure("")
    figure.set_size_inches(5.4, max(3.4, 0.25 + 0.42 * len(found)))
    _grouped_bars(figure, axes, {label: {k: (v, 0.0) for k, v in values.items()} for label, values in found.items()})
    axes.set_xlim(0, 1.12)
    title = "Stopping and repeating"
    caption = "Stop: ended by itself. Truncation: cut at the token limit. Duplicate: equal candidates of one draft."
    return Plot("rates", title, caption, _svg(figure, "rates", title))


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


def line_plot(name: str, title: str, caption: str, xlabel: str, ylabel: str, lines: Mapping[str, Line]) -> Plot:
    """A figure of several lines; the x axis is logarithmic where it spans more than a factor of ten."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(ylabel)
        for i, (label, line) in enumerate(lines.items()):
            color = _SERIES[i % 7]
            axes.errorbar(line.xs, line.ys, line.errors, label=label or None, color=color, marker=_MARKERS[i % 7],
                          linestyle="none" if line.curve else _DASHES[i % 7], markersize=6, capsize=3)
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
        axes.set_xlabel(xlabel)
        axes.margins(x=0.1, y=0.15)
        _legend(figure, axes)
        return Plot(name, title, caption, _svg(figure, name, title))


def draw(work: WorkFolder) -> list[Plot]:
    """Every figure for which the folder has data."""
    with matplotlib.rc_context(_STYLE):
        made = [make(work) for make in (_headline, _scorers, _loss, _lengths, _rates)]
    return [plot for plot in made if plot is not None]
