"""The numbers of the report: which metric leads, tables of values with their standard errors, scorers, times."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from ilf_jax.evaluation import directions, statistics
from ilf_jax.evaluation.diversity import diversity
from ilf_jax.records import Candidates
from ilf_jax.reporting.workfolder import STAGES, Metric, WorkFolder
from ilf_jax.runtime.progress import duration
from ilf_jax.runtime.stage_folder import RECORDS_IN

TARGET_LABELS = {
    "refinement": "ILF",
    "feedback_refinement": "feedback and refinement",
    "initial": "initial drafts",
    "random": "random refinement",
    "longest": "longest refinement",
    "first": "first refinement",
    "reference": "references",
    "human_refinement": "human refinements",
}
ILF, POLICY = "ILF", "policy"
BASELINES = ("random", "longest", "first")
_NORMAL_95 = 1.96


@dataclasses.dataclass(frozen=True)
class Table:
    """Heads and rows of text cells; the first `row_heads` cells of a row name it."""

    columns: list[str]
    rows: list[list[str]]
    row_heads: int = 1


def number(value: float, like: float | None = None) -> str:
    """A value with as many decimals as its size asks for, or that of `like`, the largest value beside it."""
    size = abs(value if like is None else like)
    if 0 < size < 1e-3:
        return f"{value:.1e}" if value else "0"
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size > 1 else 3
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # + 0.0: no -0.000


def signed(value: float, like: float | None = None) -> str:
    """`number` with its sign, for differences."""
    text = number(value, like)
    return text.replace("-", "−") if text.startswith("-") else f"+{text}" if float(text.replace(",", "")) else text


def largest(metrics: Iterable[Metric | None]) -> float:
    """The largest absolute value, which `number` and `with_error` take as `like`."""
    return max((abs(metric.value) for metric in metrics if metric is not None), default=0.0)


def with_error(metric: Metric | None, like: float | None = None) -> str:
    """`0.412 ± 0.021`, or `0.000 [0.000, 0.029]` for a share near 0 or 1; a dash where there is no such metric.

    Args:
        metric: what to show.
        like: the largest value beside it, so that all have as many decimals.
    """
    if metric is None:
        return "–"
    value = number(metric.value, like)
    if metric.low is not None and metric.high is not None:
        return f"{value} [{number(metric.low, like or 1)}, {number(metric.high, like or 1)}]"
    if not metric.stderr or not math.isfinite(metric.stderr):  # without spread, ± 0.000 would say nothing
        return value
    error = number(metric.stderr, metric.value if like is None else like)
    return f"{value} ± {error if float(error.replace(',', '')) else '<' + error[:-1] + '1'}"


def interval(metric: Metric) -> tuple[float, float] | None:
    """The 95 % interval: Wilson's of a share, else by the normal distribution; None without a standard error."""
    if metric.low is not None and metric.high is not None:
        return min(metric.low, metric.value), max(metric.high, metric.value)
    if metric.stderr is None or not math.isfinite(metric.stderr):
        return None
    if _is_share(metric) and metric.n is not None:
        low, high = statistics.wilson(round(metric.value * metric.n), metric.n)
        return min(low, metric.value), max(high, metric.value)
    return metric.value - _NORMAL_95 * metric.stderr, metric.value + _NORMAL_95 * metric.stderr


def with_interval(metric: Metric | None, like: float | None = None) -> str:
    """`0.412 [0.371, 0.453]`, the 95 % interval; a dash where there is no such metric. `like`: see `number`."""
    if metric is None:
        return "–"
    bounds = interval(metric)
    value = number(metric.value, like)
    return f"{value} [{', '.join(number(x, like or 1) for x in bounds)}]" if bounds else value


def spoken(metric: str) -> str:
    """A metric's name for people: win_rate -> win rate."""
    return metric.replace("_", " ")


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def direction(work: WorkFolder, metric: str) -> str:
    """'lower is better', 'higher is better', or '' where neither the task nor `directions` has the metric."""
    better = directions.direction(metric, work.metric_directions)
    return f"{better} is better" if better else ""


def _is_share(metric: Metric) -> bool:
    """Whether it is the mean of zeros and ones: only then is its standard error sqrt(p (1 - p) / (n - 1))."""
    p, n = metric.value, metric.n
    return (metric.stderr is not None and n is not None and n > 1 and 0 <= p <= 1
            and math.isclose(p * n, round(p * n), abs_tol=1e-6)
            and math.isclose(metric.stderr, math.sqrt(p * (1 - p) / (n - 1)), rel_tol=1e-4, abs_tol=1e-9))


def headline(work: WorkFolder) -> str | None:
    """The metric that leads, of those that were measured.

    `evaluate.headline` of the config, else the first that the task declares, else the first of `directions.HEADLINES`.
    """
    measured = work.names("evaluate")
    section = work.config.get("evaluate")
    named = section.get("headline") if isinstance(section, dict) else None
    choices = (named, *work.metric_directions, *directions.HEADLINES, *measured)
    return next((name for name in choices if name in measured), None)


def own_label(work: WorkFolder) -> str:
    """What the run itself is called beside its baselines: ILF, or the text that it imitates; "policy" if untrained."""
    if work.config.get("iterations") == 0:
        return POLICY
    finetune = work.config.get("finetune")
    target = finetune.get("target") if isinstance(finetune, dict) else None
    return TARGET_LABELS.get(str(target), ILF) if target not in work.baselines else ILF


def runs(work: WorkFolder) -> dict[str, WorkFolder]:
    """The run and its baselines by label, the run first."""
    return {own_label(work): work, **{TARGET_LABELS.get(name, name): run for name, run in work.baselines.items()}}


def systems(work: WorkFolder) -> dict[str, tuple[WorkFolder, str]]:
    """What was evaluated, by label: (run, stage). The run, its baselines, and the best of N where it was drawn."""
    by_label = {label: (run, "evaluate") for label, run in runs(work).items()}
    for label, run in runs(work).items():
        if run.names("best_of_n"):
            by_label[f"{label}, best of {run.config['evaluate']['best_of_n']}"] = (run, "best_of_n")
    return by_label


def series(work: WorkFolder, stage: str, metric: str) -> list[Metric]:
    """A metric over the iterations."""
    return [m for m in work.metrics if (m.stage, m.metric) == (stage, metric)]


def headline_table(work: WorkFolder, shown: Callable[[Metric | None, float], str] = with_error) -> Table:
    """Evaluation metrics by iteration, a column for each system; the leading metric first. `shown` writes a value."""
    by_label = systems(work)
    lead = headline(work)
    names = dict.fromkeys(name for run, _ in by_label.values() for name in run.names("evaluate"))
    rows = []
    for name in sorted(names, key=lambda name: name != lead):
        found = [m for run, stage in by_label.values() for m in series(run, stage, name)]
        like = largest(found)
        for i, iteration in enumerate(sorted({m.iteration for m in found})):
            values = [shown(run.value(iteration, stage, name), like) for run, stage in by_label.values()]
            rows.append([spoken(name) if i == 0 else "", str(iteration), *values])
    return Table(["metric", "iteration", *by_label], rows, row_heads=2)


def stage_metrics(work: WorkFolder) -> dict[str, Table]:
    """Every metric of the stages before evaluate: a table a stage, a column an iteration."""
    tables = {}
    for stage in [*STAGES, *sorted({m.stage for m in work.metrics} - set(STAGES))]:
        names = work.names(stage)
        if stage in ("evaluate", "rank", "reward") or not names:
            continue
        numbers = sorted({m.iteration for m in work.metrics if m.stage == stage})
        rows = [[spoken(name), *cells(series(work, stage, name), numbers)] for name in names]
        tables[stage] = Table(["metric", *(f"iteration {k}" for k in numbers)], rows)
    return tables


def cells(metrics: Iterable[Metric], numbers: Iterable[int]) -> list[str]:
    """A metric in several iterations, a cell each, all with as many decimals."""
    by_number = {metric.iteration: metric for metric in metrics}
    like = largest(by_number.values())
    return [with_error(by_number.get(k), like) for k in numbers]


def accuracy_metric(work: WorkFolder) -> str | None:
    """The metric M for which the score stage measured M_chosen and at least one M_<baseline>."""
    names = work.names("score")
    bases = [name.removesuffix("_chosen") for name in names if name.endswith("_chosen")]
    bases.sort(key=lambda base: "exact_match" not in base and "accuracy" not in base)
    return next((base for base in bases if any(f"{base}_{pick}" in names for pick in BASELINES)), None)


def scorer_accuracy(work: WorkFolder, base: str) -> dict[str, list[Metric]]:
    """What each way of picking scores on `base`, over the iterations: the scorer, baselines, all refinements."""
    by_label = {
        "scorer": series(work, "score", f"{base}_chosen"),
        **{pick: series(work, "score", f"{base}_{pick}") for pick in BASELINES},
        "all": series(work, "refine", base),
    }
    return {label: metrics for label, metrics in by_label.items() if metrics}


def _mean(values: Sequence[float]) -> Metric | None:
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return None
    mean = statistics.mean("mean", values)
    return Metric(0, "", "", mean.value, mean.stderr)


def scorer_table(work: WorkFolder) -> Table:
    """A row for each way of picking: accuracy by the oracle if there is one, score, words, agreement with the scorer.

    Score and words come from the records of the last iteration that was scored. A scorer that does not judge, such as
    a random one, has no score to show. Equal refinements are the same pick.
    """
    base = accuracy_metric(work)
    accuracy = scorer_accuracy(work, base) if base else {}
    numbers = sorted({m.iteration for metrics in accuracy.values() for m in metrics})
    last = next((i for i in reversed(work.iterations) if i.rows("score") and i.rows("refine")), None)
    drawn = last.rows("refine") if last else {}
    pairs = [(s, drawn[i]) for i, s in last.rows("score").items() if i in drawn] if last else []
    section = work.config.get("score")
    method = section.get("method") if isinstance(section, dict) else None
    judges = method not in BASELINES
    columns = ["picked by", *(f"{spoken(base)}, iteration {k}" for k in numbers if base)]
    rows: dict[str, list[Metric | None]] = {}
    for label in ("scorer", *BASELINES, "all"):
        by_number = {m.iteration: m for m in accuracy.get(label, [])}
        name = {"scorer": f"scorer ({method})" if method else "scorer", "all": "all refinements"}.get(label, label)
        scores, words, agrees = [], [], []
        for scored, candidates in pairs:
            pick = scored.chosen if label == "scorer" else scored.picks.get(label)
            picked = range(len(candidates.texts)) if label == "all" else [] if pick is None else [pick]
            scores += [scored.scores[i] for i in picked if judges]
            words += [len(candidates.texts[i].split()) for i in picked]
            agrees += [float(candidates.texts[i] == candidates.texts[scored.chosen]) for i in picked]
        if words or by_number:
            same = None if label in ("scorer", "all") else _mean(agrees)
            score = [_mean(scores)] if judges else []
            rows[name] = [*(by_number.get(k) for k in numbers), *score, _mean(words), same]
    likes = [largest(column) for column in zip(*rows.values(), strict=True)]
    heads = [*(["score"] if judges else []), "words", "same text as scorer"]
    return Table([*columns, *(f"{head}, iteration {last.number}" if last else head for head in heads)],
                 [[name, *map(with_error, cells, likes)] for name, cells in rows.items()])


def rates(work: WorkFolder) -> dict[str, dict[int, float]]:
    """Rates of stopping, truncation and redrawing, and shares of equal candidates or outputs, by iteration.

    As measured by the run, or else counted in the records.
    """
    by_label: dict[str, dict[int, float]] = {}

    def put(label: str, iteration: int, value: float | None) -> None:
        if value is not None:
            by_label.setdefault(label, {}).setdefault(iteration, value)

    for stage in ("draft", "refine", "evaluate"):
        for name in ("stop_rate", "truncation_rate", "equal_candidates", "equal_outputs", "redrawn_rate"):
            for metric in series(work, stage, name):
                put(f"{stage}: {spoken(name)}", metric.iteration, metric.value)
    for iteration in work.iterations:
        for stage in ("draft", "evaluate"):
            stops = [r.stopped for r in iteration.rows(stage).values() if getattr(r, "source", "policy") == "policy"]
            put(f"{stage}: stop rate", iteration.number, fmean(stops) if stops else None)
        drawn: list[Candidates] = list(iteration.rows("refine").values())
        stops = [stopped for record in drawn for stopped in record.stopped]
        put("refine: stop rate", iteration.number, fmean(stops) if stops else None)
        put("refine: truncation rate", iteration.number, 1 - fmean(stops) if stops else None)
        texts = [record.texts for record in drawn if record.texts]
        equal = {metric.name: metric.value for metric in diversity(texts)} if texts else {}
        put("refine: equal candidates", iteration.number, equal.get("equal_candidates"))
    return dict(sorted(by_label.items(), key=lambda item: STAGES.index(item[0].split(":")[0])))


def rate_table(work: WorkFolder) -> Table:
    """`rates` as a table, a column an iteration."""
    by_label = rates(work)
    numbers = sorted({k for values in by_label.values() for k in values})
    rows = [[label, *(number(v[k], like=1) if k in v else "–" for k in numbers)] for label, v in by_label.items()]
    return Table(["rate", *(f"iteration {k}" for k in numbers)], rows)


def time_table(work: WorkFolder) -> Table:
    """Wall time of each stage from the manifests, with tokens a second where those were counted; a row an iteration."""
    stages = [name for name in STAGES if any(name in iteration.stages for iteration in work.iterations)]
    rows = []
    for iteration in work.iterations:
        costs = [iteration.stages[s].manifest.get("cost", {}) if s in iteration.stages else {} for s in stages]
        total = sum(cost.get("seconds") or 0.0 for cost in costs)
        rows.append([str(iteration.number), *map(_time_and_speed, costs), duration(total)])
    return Table(["iteration", *stages, "sum"], rows)


def _time_and_speed(cost: dict[str, Any]) -> str:
    if cost.get("seconds") is None:
        return "–"
    speed = f", {cost['tokens'] / cost['seconds']:,.0f} tok/s" if cost.get("tokens") and cost["seconds"] else ""
    return duration(cost["seconds"]) + speed


def total_times(work: WorkFolder) -> str:
    """How long the run took, and its baselines; "" where no stage has said."""
    own, of_baselines = _seconds(work), sum(map(_seconds, work.baselines.values()))
    if not own:
        return ""
    more = f" Its baselines took {duration(of_baselines)} more, which the table leaves out." if work.baselines else ""
    return f"The run itself took {duration(own)}, as far as it has got.{more}" if work.missing else (
        f"The run itself took {duration(own)}.{more}")


def _seconds(work: WorkFolder) -> float:
    """Of all stages, less those whose records a baseline shares with its run."""
    return sum(stage.seconds or 0.0 for iteration in work.iterations for stage in iteration.stages.values()
               if RECORDS_IN not in stage.manifest)


def changes_table(work: WorkFolder) -> Table:
    """What of the configuration was changed while the run went on; a baseline's rows where the run's own differ."""
    rows: list[list[str]] = []
    for run in (work, *work.baselines.values()):
        for change in run.changes:
            old, new = (json.dumps(change.get(side), ensure_ascii=False) for side in ("from", "to"))
            row = [str(change.get("key")), old, new, minute(change.get("when"))]
            if row[:3] not in (known[:3] for known in rows):
                rows.append(row)
    return Table(["Key", "Before", "Since", "When"], rows)


def minute(unix_time: Any) -> str:
    """Date and time of day; a dash for what is no time of this century."""
    if isinstance(unix_time, bool) or not isinstance(unix_time, (int, float)) or not 0 < unix_time < 2**32:
        return "–"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_time))


def reward_table(work: WorkFolder) -> Table:
    """What the reward stage measured of the reward model that the run trained; no rows where it trained none."""
    rows = [[spoken(name), with_error(work.value(0, "reward", name))] for name in work.names("reward")]
    return Table(["held-out comparisons", "value"], rows)


def versions(work: WorkFolder) -> Table:
    """Software versions from the manifests; where stages differ (a resumed run), all of them."""
    versions: dict[str, dict[str, Any]] = {}
    for iteration in work.iterations:
        for stage in iteration.stages.values():
            for name, version in (stage.manifest.get("versions") or {}).items():
                versions.setdefault(name, {})[str(version)] = None
    return Table(["package", "version"], [[name, ", ".join(versions[name])] for name in sorted(versions)])
