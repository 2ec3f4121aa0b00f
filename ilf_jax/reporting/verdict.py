"""The first screen of the report: did it help, by how much, against what. No claim without an interval.

Differences are paired, on the same held-out documents (`evaluation.paired`). One whose 95 % interval holds zero is
called no clear difference, whatever the means are.
"""

import dataclasses
from collections.abc import Sequence

from ilf_jax.evaluation import directions, paired, statistics
from ilf_jax.reporting import explanations, judgements, methods, remarks, tables
from ilf_jax.reporting.workfolder import Metric, WorkFolder

_BEFORE = "before training"
_FEW = 20  # documents, below which a bootstrap is too sure of itself
_MARGIN = 0.04  # on either side of the intervals that are drawn


@dataclasses.dataclass(frozen=True)
class Bar:
    """An interval, drawn: where it begins, its middle, where it ends, and where zero is, in percent of the width."""

    low: float
    middle: float
    high: float
    zero: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        label, explanation: what it is.
        value: of the leading metric, with its 95 % interval.
        difference: the run's value minus this one, with its 95 % interval; "" for the run itself.
        said: what that shows: "better", "worse", "no clear difference"; "higher" or "lower" where neither is better.
        tone: "good", "bad" or "", for the eye.
        bar: the difference, drawn; None where there is none.
    """

    label: str
    explanation: str
    value: str
    difference: str
    said: str
    tone: str
    bar: Bar | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the first screen says.

    Attributes:
        headline: one sentence.
        details: further sentences.
        notes: what else a reader should know before believing the headline.
        metric: that leads, as people say it; "" where nothing was evaluated.
        direction: "lower is better", "higher is better", or "".
        ours: the label of the system that the others are compared with.
        rows: the systems, that one first.
    """

    headline: str
    details: list[str]
    metric: str = ""
    direction: str = ""
    ours: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _System:
    """What is compared: a metric, its values by document, and what it is called."""

    label: str
    explanation: str
    metric: Metric
    values: dict[str, float]


def read(work: WorkFolder) -> Verdict:
    """The verdict on a run, finished or not."""
    lead = tables.headline(work)
    if lead is None:
        return _of_reward_model(work) or Verdict("Nothing has been evaluated on held-out documents yet.", [])
    better = directions.direction(lead, work.metric_directions)
    ours, others = _systems(work, lead)
    ties: dict[str, str] = {}
    compared = [(other, None if _is_behind(other, ours) else methods.difference(ours.values, other.values))
                for other in others]
    if lead.startswith("win_rate") and ours.metric.iteration > 0:
        verdict = _of_win_rate(ours)
    elif compared and (work.config.get("iterations") == 0 or others[0].label == _BEFORE):
        first = compared[0][1]
        if first is not None and _tone(first, better) == "good":  # else there is nothing to credit to any part
            ties = _ties(work, lead, ours, compared)
        verdict = _of_difference(work, lead, ours, *compared[0], better, list(ties))
    else:
        value = tables.number(ours.metric.value)
        state = "before training" if ours.metric.iteration == 0 else f"after iteration {ours.metric.iteration}"
        verdict = Verdict(f"{_capital(tables.spoken(lead))} is {value} {state}.", [])
    reward = _of_reward_model(work)
    if reward is not None and work.config.get("iterations") == 0:
        verdict = Verdict(reward.headline, [*reward.details, verdict.headline, *verdict.details])
    details = [*verdict.details, *_against_baselines(compared, better), *ties.values()]
    notes = [remarks.of_iterations(work, lead), remarks.of_losses(work, lead), remarks.of_copies(work)]
    n = len(ours.values)
    if 0 < n < _FEW and compared:
        details.append(f"There are only {n} held-out documents: intervals over so few are a rough guide.")
    who = ours.label if ours.metric.stage == "best_of_n" else tables.own_label(work)
    return Verdict(verdict.headline, details, tables.spoken(lead), f"{better} is better" if better else "", who,
                   _rows(ours, compared, better), list(filter(None, notes)))


def _systems(work: WorkFolder, lead: str) -> tuple[_System, list[_System]]:
    """The run after its last evaluation, and what it is compared with; best-of-N leads where nothing is trained."""
    lines = explanations.of_systems(work)
    found: list[_System] = []
    own = tables.own_label(work)
    last = max(m.iteration for m in tables.series(work, "evaluate", lead))
    for label, (run, stage) in tables.systems(work).items():
        series = [m for m in tables.series(run, stage, lead) if m.iteration <= last]
        if series:
            k = series[-1].iteration
            found.append(_System(label if k in (0, last) else f"{label}, iteration {k}", lines[label], series[-1],
                                 methods.per_document([run], lead, stage, k)))
    leading = "best_of_n" if work.config.get("iterations") == 0 else "evaluate"
    ours = next((system for system in found if system.metric.stage == leading), found[0])
    others = [system for system in found if system is not ours and (system.metric.iteration > 0 or last == 0)]
    before = work.value(0, "evaluate", lead)
    if last == 0 and leading == "evaluate":  # a run that has just begun, as have its baselines
        return dataclasses.replace(ours, label=_BEFORE, explanation=explanations.BEFORE_TRAINING), []
    if last > 0:
        ours = dataclasses.replace(ours, label=f"{own}, after iteration {last}")
        if before is not None:
            others.insert(0, _System(_BEFORE, explanations.BEFORE_TRAINING, before,
                                     methods.per_document([work], lead, "evaluate", 0)))
    return ours, others


def _ties(
    work: WorkFolder, lead: str, ours: _System, compared: Sequence[tuple[_System, paired.Difference | None]]
) -> dict[str, str]:
    """The baselines that are not clearly different, though a part of ILF is all that they lack: what that shows."""
    said = {}
    for name in work.baselines:
        label = tables.TARGET_LABELS.get(name, name)
        for other, found in compared:
            if other.label == label and found is not None and not found.is_clear:
                value = tables.number(other.metric.value, tables.largest([ours.metric, other.metric]))
                said[label] = remarks.of_tie(work, name, lead, ours.values, other.values, value)
    return {label: sentence for label, sentence in said.items() if sentence}


def _is_behind(other: _System, ours: _System) -> bool:
    """Whether it is a baseline that has had fewer iterations: a comparison would be unfair."""
    return other.label != _BEFORE and other.metric.iteration < ours.metric.iteration


def _of_difference(
    work: WorkFolder, lead: str, ours: _System, before: _System, found: paired.Difference | None, better: str | None,
    ties: Sequence[str],
) -> Verdict:
    """Of the run against the policy before training; where nothing is trained, of the best of N against one output."""
    name, like = tables.spoken(lead), tables.largest([ours.metric, before.metric])
    old, new = (tables.number(system.metric.value, like) for system in (before, ours))
    trained = ours.metric.iteration > 0
    who = tables.own_label(work) if trained else "Picking"
    moved = f"stayed at {new}" if old == new else (
        f"{'rose' if ours.metric.value > before.metric.value else 'fell'} from {old} to {new}")
    if found is None:
        return Verdict(f"{_capital(name)} {moved}.", [
            "Documents have no values of their own for this metric, so there is no paired interval, and no claim that "
            "the difference is more than chance."])
    if not found.is_clear:
        versus = f"was {old} before training and is {new} now" if trained else f"is {old} for one output, {new} picked"
        return Verdict(f"No clear effect: {name} {versus}.", [_interval_sentence(found)])
    tone = _tone(found, better)
    no_more_than = f", but not clearly more than {tables.listed(ties)}" if ties else ""
    said = {"good": f"{who} helped{no_more_than}: {name} {moved}", "bad": f"{who} made it worse: {name} {moved}"}.get(
        tone, f"{_capital(name)} {moved}")
    return Verdict(f"{said}.", [_interval_sentence(found)])


def _interval_sentence(found: paired.Difference) -> str:
    like = max(abs(found.low), abs(found.high))
    value, low, high = (tables.signed(x, like) for x in (found.value, found.low, found.high))
    if found.is_alike:
        return (f"None of the {found.n} held-out documents differs." if abs(found.value) < 1e-12 else
                f"The difference is {value} in every one of the {found.n} held-out documents.")
    held = "excludes" if found.is_clear else "holds"
    return (f"Difference on the same {found.n} held-out documents: {value}, 95 % interval {low} to {high}, "
            f"which {held} 0.")


def _of_win_rate(ours: _System) -> Verdict:
    """A win rate against the outputs before training is a paired comparison by itself; 0.5 is no difference."""
    metric, interval = ours.metric, tables.interval(ours.metric)
    value = tables.number(metric.value, like=1)
    if interval is None:
        return Verdict(f"Win rate against the outputs before training: {value}.", ["It has no interval: no claim."])
    low, high = (tables.number(x, like=1) for x in interval)
    sentence = f"Win rate {value}, 95 % interval {low} to {high}; 0.5 is no difference."
    if interval[0] > 0.5:
        return Verdict(f"It helped: outputs win {value} of the comparisons with those before training.", [sentence])
    if interval[1] < 0.5:
        return Verdict(f"It made it worse: outputs win only {value} of the comparisons with those before training.",
                       [sentence])
    return Verdict(f"No clear effect: outputs win {value} of the comparisons with those before training.", [sentence])


def _of_reward_model(work: WorkFolder) -> Verdict | None:
    """How often the reward model that the run trained is right; None where it trained none."""
    accuracy = work.value(0, "reward", "accuracy")
    if accuracy is None:
        return None
    n = accuracy.n or len(judgements.preferences(work))
    right = accuracy.value * n
    is_count = n > 0 and abs(right - round(right)) < 1e-6  # not where some probabilities were exactly one half
    interval = statistics.wilson(round(right), n) if is_count else tables.interval(accuracy)
    share = tables.number(accuracy.value, like=1)
    about = f"{round(right)} of {n} held-out comparisons ({share})" if is_count else f"{share} of held-out comparisons"
    headline = f"The reward model is right about {about}."
    if interval is None:
        return Verdict(headline, [])
    low, high = (tables.number(x, like=1) for x in interval)
    claim = ("better than guessing, 0.5" if interval[0] > 0.5 else "worse than guessing, 0.5" if interval[1] < 0.5 else
             "not clearly better than guessing, 0.5")
    return Verdict(headline, [f"95 % interval of its accuracy: {low} to {high}; {claim}."])


def _against_baselines(
    compared: Sequence[tuple[_System, paired.Difference | None]], better: str | None
) -> list[str]:
    """One sentence about all baselines; [] if there are none."""
    labels: dict[str, list[str]] = {}
    for other, found in compared:
        if other.label != _BEFORE and other.metric.iteration > 0 and found is not None:
            labels.setdefault(_said(found, better), []).append(other.label)
    words = {"better": "better than", "worse": "worse than", "higher": "higher than", "lower": "lower than",
             "no clear difference": "not clearly different from"}
    parts = [f"{words[said]} {tables.listed(labels[said])}" for said in words if said in labels]
    return [f"Against its baselines it is {'; '.join(parts)}."] if parts else []


def _said(found: paired.Difference, better: str | None) -> str:
    if not found.is_clear:
        return "no clear difference"
    higher = found.value > 0
    if better is None:
        return "higher" if higher else "lower"
    return "better" if higher == (better == "higher") else "worse"


def _tone(found: paired.Difference, better: str | None) -> str:
    return {"better": "good", "worse": "bad"}.get(_said(found, better), "")


def _rows(
    ours: _System, compared: Sequence[tuple[_System, paired.Difference | None]], better: str | None
) -> list[Row]:
    like = tables.largest([ours.metric, *(other.metric for other, _ in compared)])
    found = [difference for _, difference in compared if difference is not None]
    least = min([0.0, *(d.low for d in found)])
    width = (max([0.0, *(d.high for d in found)]) - least) or 1.0

    def place(x: float) -> float:
        return round(100 * (_MARGIN + (1 - 2 * _MARGIN) * (x - least) / width), 2)

    rows = [Row(ours.label, ours.explanation, tables.with_interval(ours.metric, like), "", "", "", None)]
    for other, difference in compared:
        said, tone, bar = "not as far yet" if _is_behind(other, ours) else "not compared by document", "", None
        if difference is not None:
            said, tone = _said(difference, better), _tone(difference, better)
            bar = Bar(*map(place, (difference.low, difference.value, difference.high, 0.0)))
        rows.append(Row(other.label, other.explanation, tables.with_interval(other.metric, like),
                        methods.with_interval(difference, like), said, tone, bar))
    return rows


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
