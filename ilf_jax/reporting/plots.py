"""The figures of a run's report."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from ilf_jax.evaluation import calibration
from ilf_jax.reporting import figures, glossary, judgements, methods, tables
from ilf_jax.reporting.workfolder import Metric, WorkFolder

_LABELS_APART = 0.04  # of the axis from 0.5 to 1
_MAX_POINTS = 300  # of a training curve; more points make the page heavy and show no more


def _errors(metrics: Sequence[Metric]) -> list[float]:
    return [m.stderr if m.stderr is not None and math.isfinite(m.stderr) else 0.0 for m in metrics]


def _headline(work: WorkFolder) -> figures.Plot | None:
    lead = tables.headline(work)
    if lead is None:
        return None
    by_label = {label: tables.series(run, stage, lead) for label, (run, stage) in tables.systems(work).items()}
    by_label = {label: metrics for label, metrics in by_label.items() if metrics}
    if len({m.iteration for metrics in by_label.values() for m in metrics}) == 1:
        return _of_one_iteration(work, lead, {label: metrics[0] for label, metrics in by_label.items()})
    figure, axes = figures.make_axes(tables.spoken(lead))
    own = tables.own_label(work)
    for i, (label, metrics) in enumerate(by_label.items()):
        shift = 0.03 * (i - (len(by_label) - 1) / 2)  # keeps error bars from overlapping
        axes.errorbar(
            [m.iteration + shift for m in metrics],
            [m.value for m in metrics],
            _intervals(metrics),
            label=label,
            color=figures.SERIES[i % 7],
            marker=figures.MARKERS[i % 7],
            linestyle=figures.DASHES[i % 7],
            linewidth=2.4 if label == own else 1.5,
            markersize=6,
            capsize=3,
        )
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.1, y=0.15)
    figures.add_legend(figure, axes)
    title = f"{tables.spoken(lead).capitalize()} by iteration"
    return figures.Plot("headline", title, _caption(work, lead), figures.to_svg(figure, "headline", title))


def _of_one_iteration(work: WorkFolder, lead: str, metrics: dict[str, Metric]) -> figures.Plot | None:
    """Bars: over a single iteration there is no curve."""
    if len(metrics) < 2:
        return None
    figure, axes = figures.make_axes("")
    figure.set_size_inches(5.4, 0.9 + 0.42 * len(metrics))
    figures.bars(axes, {label: (m.value, *_intervals([m])[:, 0]) for label, m in metrics.items()})
    axes.set_xlabel(tables.spoken(lead))
    title = tables.spoken(lead).capitalize()
    return figures.Plot("headline", title, _caption(work, lead), figures.to_svg(figure, "headline", title))


def _caption(work: WorkFolder, lead: str) -> str:
    said = ", ".join(filter(None, [tables.direction(work, lead), "error bars: 95 % intervals"]))
    return f"{said[:1].upper()}{said[1:]}."


def _intervals(metrics: Sequence[Metric]) -> np.ndarray:
    """How far the 95 % intervals reach below and above the values, [2, number of metrics]."""
    bounds = [tables.interval(m) or (m.value, m.value) for m in metrics]
    return np.array([[m.value - low for m, (low, _) in zip(metrics, bounds, strict=True)],
                     [high - m.value for m, (_, high) in zip(metrics, bounds, strict=True)]])


def _methods(work: WorkFolder) -> figures.Plot | None:
    return methods.plot([work])


def _scorers(work: WorkFolder) -> figures.Plot | None:
    base = tables.accuracy_metric(work)
    if base is None:
        return None
    metrics_by_label = tables.scorer_accuracy(work, base)
    groups = {
        {"all": "all refinements"}.get(label, label): {
            m.iteration: (m.value, e) for m, e in zip(metrics, _errors(metrics), strict=True)
        }
        for label, metrics in metrics_by_label.items()
    }
    figure, axes = figures.make_axes("")
    figures.grouped_bars(figure, axes, groups)
    axes.set_xlabel(tables.spoken(base))
    title = "The scorer against its baselines"
    meaning = glossary.meaning(work, "score", base)
    caption = (f"{tables.spoken(base).capitalize()} of the picked refinements{f' ({meaning})' if meaning else ''}; "
               "error bars: one standard error.")
    return figures.Plot("scorers", title, caption, figures.to_svg(figure, "scorers", title))


def _thinned(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """At most _MAX_POINTS points, each the mean of consecutive ones."""
    size = math.ceil(len(xs) / _MAX_POINTS)
    starts = range(0, len(xs), size) if size else ()
    return tuple([sum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in (xs, ys))  # type: ignore


def _loss(work: WorkFolder) -> figures.Plot | None:
    curves = {}
    for iteration in work.iterations:
        points = [(row["step"], row["loss"]) for row in iteration.steps if "step" in row]
        points = [(s, v) for s, v in points if isinstance(v, int | float) and math.isfinite(v)]
        if points:
            curves[f"iteration {iteration.number}"] = _thinned(*map(list, zip(*points, strict=True)))
    if not curves:
        return None
    figure, axes = figures.make_axes("loss (nats a token)")
    for i, (label, (xs, ys)) in enumerate(curves.items()):
        marker = figures.MARKERS[i % 7] if len(xs) < 30 else None
        axes.plot(xs, ys, label=label, color=figures.SERIES[i % 7], linestyle=figures.DASHES[i % 7], marker=marker,
                  markersize=4)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figures.add_legend(figure, axes)
    title = "Training loss"
    return figures.Plot("loss", title, "Finetuning on the selected refinements.", figures.to_svg(figure, "loss", title))


def _lengths(work: WorkFolder) -> figures.Plot | None:
    """Words per text: the last iteration's drafts and refinements, and held-out outputs before and after training."""
    texts: dict[str, list[str]] = {}
    last = next((i for i in reversed(work.iterations) if i.rows("refine") or i.rows("draft")), None)
    if last is not None:
        texts["drafts"] = [r.text for r in last.rows("draft").values()]
        texts["refinements"] = [text for r in last.rows("refine").values() for text in r.texts]
        candidates, feedback = last.rows("refine"), last.rows("feedback")
        texts["chosen"] = [feedback[i].refinement if s.overruled_by and i in feedback else candidates[i].texts[s.chosen]
                           for i, s in last.rows("score").items() if i in candidates]
    evaluated = [i for i in work.iterations if i.rows("evaluate")]
    if evaluated:
        texts["held out, before"] = [r.text for r in evaluated[0].rows("evaluate").values()]
        heldout = evaluated[-1].heldout.values()
        texts["references"] = [e.reference for e in heldout if e.reference]
    if len(evaluated) > 1:
        texts["held out, after"] = [r.text for r in evaluated[-1].rows("evaluate").values()]
    words = {label: [len(text.split()) for text in group] for label, group in texts.items() if group}
    if len(words) < 2:
        return None  # nothing to compare
    figure, axes = figures.make_axes("")
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
        boxprops={"facecolor": figures.SERIES[0], "edgecolor": figures.SERIES[0], "alpha": 0.45},
        whiskerprops={"color": figures.SERIES[0]},
        capprops={"color": figures.SERIES[0]},
        medianprops={"color": figures.INK, "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": figures.SERIES[1], "markeredgecolor": figures.SERIES[1],
                   "markersize": 5},
    )
    axes.set_yticks(range(1, len(words) + 1), list(words))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("words")
    title = "Lengths"
    of = [] if last is None else [f"Drafts and refinements of iteration {last.number}."]
    if evaluated:
        numbers = sorted({evaluated[0].number, evaluated[-1].number})
        of.append(f"Held-out outputs of iteration {' and '.join(map(str, numbers))}.")
    caption = f"{' '.join(of)} Box: the middle half; line: median; diamond: mean; whiskers: 5 % to 95 %."
    return figures.Plot("lengths", title, caption, figures.to_svg(figure, "lengths", title))


def _win_rates(work: WorkFolder) -> figures.Plot | None:
    win_rates = judgements.against_all(work)
    if not win_rates:
        return None
    figure, axes = figures.make_axes("")
    figure.set_size_inches(5.4, max(2.0, 0.6 + 0.42 * len(win_rates)))
    errors = _errors(list(win_rates.values()))
    figures.bars(axes, {judgements.spoken(name): (metric.value, error, error)
                        for (name, metric), error in zip(win_rates.items(), errors, strict=True)})
    axes.set_xlim(0, 1.12)
    axes.axvline(0.5, color=figures.INK, linewidth=1, linestyle=":")
    axes.set_xlabel("win rate against all others")
    title = "Systems against each other"
    caption = (f"Iteration {judgements.ranked_iteration(work)}. Judged in both orders on the same documents; "
               "a tie counts half; error bars: one standard error.")
    return figures.Plot("win-rates", title, caption, figures.to_svg(figure, "win-rates", title))


def _reliability(work: WorkFolder) -> figures.Plot | None:
    rows = judgements.preferences(work)
    if not rows:
        return None
    bins = calibration.reliability([row.probability for row in rows], [row.preferred == "first" for row in rows])
    figure, axes = figures.make_axes("accuracy")
    axes.plot([0.5, 1], [0.5, 1], color=figures.GRID, linestyle="--")
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color=figures.SERIES[0],
              marker=figures.MARKERS[0])
    labelled = -1.0
    for b in bins:
        if b.confidence - labelled > _LABELS_APART:
            axes.annotate(str(b.n), (b.confidence, b.accuracy), (0, 7), textcoords="offset points", ha="center",
                          fontsize=8)
            labelled = b.confidence
    axes.set_xlabel("confidence (probability of the likelier text)")
    axes.margins(x=0.05, y=0.15)
    title = "Calibration of the reward model"
    caption = "Held-out comparisons in bins of confidence, with their number; dashed: perfect calibration."
    return figures.Plot("reliability", title, caption, figures.to_svg(figure, "reliability", title))


def draw(work: WorkFolder) -> list[figures.Plot]:
    """Every figure that the folder has data for."""
    with matplotlib.rc_context(figures.STYLE):
        plots = [make(work) for make in (
            _headline, _loss, _scorers, _lengths, _win_rates, _reliability, _methods)]
    return [plot for plot in plots if plot is not None]
