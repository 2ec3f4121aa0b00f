"""Methods against each other: a row for ILF and each baseline, with what it cost and what the feedback's words did."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ilf_jax.evaluation import paired, statistics
from ilf_jax.reporting import figures, tables
from ilf_jax.reporting.workfolder import Metric, WorkFolder

_COMPARED_SECTIONS = ("feedback", "refine", "score", "finetune")


@dataclasses.dataclass(frozen=True)
class Row:
    """One method, over all seeds.

    Attributes:
        tokens: trained on in all iterations, a seed; None where a run has not got there.
        value: of the leading metric after the last iteration; with several seeds, their mean and its standard error.
        ilf_minus_this: the paired difference to the run itself; None for that, and where documents have no values of
            their own.
        minus_control: this less the method with shuffled feedback, paired; None where there is no such run.
        kl: divergence from the policy before training, in nats an output, as `value`; None where it was not measured.
    """

    label: str
    tokens: float | None
    value: Metric | None
    ilf_minus_this: paired.Difference | None
    minus_control: paired.Difference | None
    kl: Metric | None


def rows(seeds: Sequence[WorkFolder]) -> list[Row]:
    """A row for the run and each baseline that every seed has; [] where there is no baseline or nothing was evaluated.

    All are compared after the last iteration that the run has evaluated in every seed; a baseline that has not got
    there has no row. Differences are taken on the same held-out documents; a document's value is the mean over seeds.

    Args:
        seeds: runs of one configuration that differ by their seed alone; one will do.
    """
    lead = tables.headline(seeds[0])
    by_label = [tables.runs(work) for work in seeds]
    ends = [tables.series(work, "evaluate", lead)[-1:] for work in seeds] if lead else []
    if lead is None or not all(ends):
        return []
    last = min(end.iteration for (end,) in ends)
    labels = [label for label in by_label[0] if all(
        label in runs and runs[label].value(last, "evaluate", lead) is not None for runs in by_label)]
    if len(labels) < 2:
        return []
    own = labels[0]
    values = {label: per_document([runs[label] for runs in by_label], lead, iteration=last) for label in labels}
    shuffled = controls({label: by_label[0][label] for label in labels})
    made = []
    for label in labels:
        runs = [of_seed[label] for of_seed in by_label]
        made.append(Row(
            label, _mean_tokens(runs, last), _over_seeds(runs, lead, last),
            None if label == own else difference(values[own], values[label]),
            difference(values[label], values[shuffled[label]]) if label in shuffled else None,
            _over_seeds(runs, "kl_policy_base", last)))
    return made


def table(seeds: Sequence[WorkFolder]) -> tables.Table:
    """`rows` as a table, less the columns that hold nothing; `not_shown` says how to get those."""
    found = rows(seeds)
    like, like_kl = (tables.largest(column) for column in ([row.value for row in found], [row.kl for row in found]))
    of_value = tables.with_interval if len(seeds) == 1 else tables.with_error
    shown = [[row.label, "–" if row.tokens is None else f"{row.tokens:,.0f}", of_value(row.value, like),
              with_interval(row.ilf_minus_this, like), with_interval(row.minus_control, like),
              of_value(row.kl, like_kl)]
             for row in found]
    columns = ["method", "tokens trained", tables.spoken(tables.headline(seeds[0]) or ""), *_heads(seeds)]
    kept = [i for i in range(len(columns)) if i < 3 or any(row[i] != "–" for row in shown)]
    return tables.Table([columns[i] for i in kept], [[row[i] for i in kept] for row in shown])


def _heads(seeds: Sequence[WorkFolder]) -> list[str]:
    """Of the columns that not every run has."""
    return [f"{tables.own_label(seeds[0])} minus this", "this minus its shuffled control", "KL from the start"]


def not_shown(seeds: Sequence[WorkFolder]) -> list[str]:
    """Which columns `table` has left out, and what gives them."""
    ways = ("documents with values of their own",
            "a baseline with config.feedback.control='shuffled', as configs/methods.py has them",
            "config.evaluate.kl=True")
    found = table(seeds)
    return [f"{head} ({way})" for head, way in zip(_heads(seeds), ways, strict=True)
            if found.rows and head not in found.columns]


def plot(seeds: Sequence[WorkFolder], name: str = "methods") -> figures.Plot | None:
    """The table's numbers as dots with 95 % intervals; None where there is no table. `name` is unique in its page."""
    found = rows(seeds)
    if not found:
        return None
    lead = tables.spoken(tables.headline(seeds[0]) or "")
    panels = {
        lead: [_interval(row.value) for row in found],
        _heads(seeds)[0]: [_of_difference(row.ilf_minus_this) for row in found],
        _heads(seeds)[1]: [_of_difference(row.minus_control) for row in found]}
    panels = {label: values for label, values in panels.items() if any(values)}
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(11, 1.0 + 0.3 * len(found)), layout="constrained")
        FigureCanvasSVG(figure)
        for i, (axes, (label, values)) in enumerate(zip(
                figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True)):
            for y, value in enumerate(values):
                if value is not None:
                    middle, low, high = value
                    axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], marker=figures.MARKERS[i],
                                  color=figures.SERIES[i], capsize=3, markersize=5)
            if i:
                axes.axvline(0, color=figures.INK, linewidth=1, linestyle=":")
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", visible=True)
            axes.tick_params(length=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
            axes.set_xlabel(label)
            axes.set_yticks(range(len(found)), [figures.shortened(row.label, 30) for row in found])
        axes.invert_yaxis()
        title = "Methods"
        direction = tables.direction(seeds[0], tables.headline(seeds[0]) or "").capitalize() or lead
        caption = (f"After {last_iteration(seeds[0])}. {direction}. Bars: 95 % intervals, of differences by paired "
                   "bootstrap over documents.")
        return figures.Plot(name, title, caption, figures.to_svg(figure, name, title), wide=True)


def last_iteration(work: WorkFolder) -> str:
    """`iteration 3`: the last that was evaluated."""
    lead = tables.headline(work)
    return f"iteration {tables.series(work, 'evaluate', lead)[-1].iteration}" if lead else "the last iteration"


def controls(runs: Mapping[str, WorkFolder]) -> dict[str, str]:
    """Label of a method -> label of the same with shuffled feedback."""

    def settings(work: WorkFolder, control: str | None = None) -> str:
        sections = {name: dict(work.config.get(name) or {}) for name in _COMPARED_SECTIONS}
        if control is not None:
            sections["feedback"]["control"] = control
        return json.dumps(sections, sort_keys=True)

    found = {settings(work): label for label, work in runs.items()}
    made = {}
    for label, work in runs.items():
        own = (work.config.get("feedback") or {}).get("control", "")
        control = found.get(settings(work, "shuffled")) if own == "" else None
        if control is not None:
            made[label] = control
    return made


def per_document(
    runs: Sequence[WorkFolder], metric: str, stage: str = "evaluate", iteration: int | None = None
) -> dict[str, float]:
    """A metric of each held-out document, mean over the runs; {} where documents have no values of their own.

    Args:
        runs: of one configuration.
        metric: its name.
        stage: evaluate or best_of_n.
        iteration: None for the last that the stage has.
    """
    values: dict[str, list[float]] = {}
    for work in runs:
        found = [i for i in work.iterations if i.rows(stage) and iteration in (None, i.number)]
        for output in found[-1].rows(stage).values() if found else ():
            if metric in output.values:
                values.setdefault(output.id, []).append(output.values[metric])
    return {i: float(np.mean(of_document)) for i, of_document in values.items() if len(of_document) == len(runs)}


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> paired.Difference | None:
    """The paired difference on the documents that both have; None where there are none."""
    ids = sorted(set(ours) & set(theirs))
    return paired.difference([ours[i] for i in ids], [theirs[i] for i in ids]) if ids else None


def _over_seeds(runs: Sequence[WorkFolder], metric: str, iteration: int) -> Metric | None:
    found = [value for work in runs if (value := work.value(iteration, "evaluate", metric)) is not None]
    if len(found) < len(runs):
        return None
    if len(found) == 1:
        return found[0]
    mean = statistics.mean(metric, [of_seed.value for of_seed in found])
    pooled = _pooled_share(found)
    low, high = pooled if pooled is not None else (None, None)
    return Metric(iteration, "evaluate", metric, mean.value, mean.stderr, found[0].n, low, high)


def _pooled_share(of_seeds: Sequence[Metric]) -> tuple[float, float] | None:
    """Wilson's interval of a share near 0 or 1 in every seed, over the outputs of all of them; else None."""
    if any(share.low is None or share.n is None for share in of_seeds):
        return None
    outputs = [share.n for share in of_seeds if share.n is not None]
    return statistics.wilson(
        sum(round(share.value * n) for share, n in zip(of_seeds, outputs, strict=True)), sum(outputs))


def _mean_tokens(runs: Sequence[WorkFolder], last: int) -> float | None:
    totals = [sum(m.value for m in tables.series(work, "finetune", "tokens_trained") if m.iteration <= last)
              for work in runs]
    return float(np.mean(totals)) if all(totals) else None


def with_interval(difference: paired.Difference | None, like: float | None = None) -> str:
    """`+0.120 [+0.050, +0.190]`; a dash where there is no difference. `like`: see `tables.number`."""
    if difference is None:
        return "–"
    like = max(abs(difference.low), abs(difference.high)) if like is None else like
    if difference.is_alike:
        return f"{tables.signed(difference.value, like)} in every document"
    value, low, high = (tables.signed(x, like) for x in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]"


def _of_difference(difference: paired.Difference | None) -> tuple[float, float, float] | None:
    return None if difference is None else (difference.value, min(difference.low, difference.value),
                                            max(difference.high, difference.value))


def _interval(metric: Metric | None) -> tuple[float, float, float] | None:
    return None if metric is None else (metric.value, *(tables.interval(metric) or (metric.value, metric.value)))
