"""What the first screen says beside the verdict: ties with baselines, other iterations, losses, content feedback."""

from collections.abc import Mapping

from ilf_jax import registry
from ilf_jax.evaluation import directions
from ilf_jax.reporting import explanations, methods, tables
from ilf_jax.reporting.workfolder import Iteration, WorkFolder

_WORTH_SAYING = 0.1  # of all documents, whose feedback asks for nothing


def of_tie(
    work: WorkFolder, name: str, lead: str, ours: Mapping[str, float], theirs: Mapping[str, float], value: str
) -> str:
    """What it shows that a baseline is not clearly different; "" where it shows nothing about a part of ILF.

    Args:
        work: the run.
        name: of the baseline.
        lead: the metric.
        ours, theirs: its values by document.
        value: the baseline's, as it is shown.
    """
    lesson = explanations.lesson_of_tie(work, name)
    if not lesson:
        return ""
    label, metric = tables.TARGET_LABELS.get(name, name), tables.spoken(lead)
    end = _common_end(ours, theirs)
    if end:
        return f"{lesson}: with {label}, too, {metric} is at its {end}, where it cannot tell them apart any more."
    return f"{lesson}: with {label} {metric} is {value}, no clear difference."


def _common_end(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Which end of its range the metric has reached in every document of both; "" for neither."""
    values = {*ours.values(), *theirs.values()}
    return "floor" if values == {0.0} else "ceiling" if values == {1.0} else ""


def of_iterations(work: WorkFolder, lead: str) -> str:
    """Which iteration is the best on the leading metric; "" where there are not two, or neither end is better."""
    series = [m for m in tables.series(work, "evaluate", lead) if m.iteration > 0]
    better = directions.direction(lead, work.metric_directions)
    if len(series) < 2 or better is None:
        return ""
    last, like = series[-1], tables.largest(series)
    best = (min if better == "lower" else max)(series, key=lambda m: m.value)  # the first of equal ones
    shown = f"Shown is the last iteration, {last.iteration}"
    if best is last:
        return f"{shown}, the best of {len(series)}."
    value = tables.number(best.value, like)
    if best.value == last.value:
        return f"{shown}; iteration {best.iteration} was as good: {value}."
    values = [methods.per_document([work], lead, "evaluate", m.iteration) for m in (last, best)]
    found = methods.difference(*values)
    claim = "" if found is None else "a clear difference" if found.is_clear else "no clear difference"
    return f"{shown}; iteration {best.iteration} was better: {', '.join(filter(None, [value, claim]))}."


def of_losses(work: WorkFolder, lead: str) -> str:
    """The other metrics that clearly got worse from before training to the last evaluation; "" for none."""
    last = max(m.iteration for m in tables.series(work, "evaluate", lead))
    worse = []
    for name in work.names("evaluate"):
        better = directions.direction(name, work.metric_directions)
        before, after = (work.value(k, "evaluate", name) for k in (0, last))
        if name == lead or "[" in name or better is None or before is None or after is None:
            continue
        found = methods.difference(*(methods.per_document([work], name, "evaluate", k) for k in (last, 0)))
        if found is not None and found.is_clear and (found.value > 0) == (better == "lower"):
            like = tables.largest([before, after])
            old, new = (tables.number(m.value, like) for m in (before, after))
            worse.append(f"{tables.spoken(name)} ({old} before, {new} now)")
    return f"What got worse: {', '.join(worse)}." if worse else ""


def of_copies(work: WorkFolder) -> str:
    """For how many drafts nothing was left to correct, where those are many."""
    if explanations.value(work.config, "finetune.target") != "refinement":
        return ""
    asks_for_nothing = _says_when_content(work)
    shares = {i.number: share for i in work.iterations
              if (share := (_asked_for_nothing(i, asks_for_nothing) if asks_for_nothing else _kept(i))) is not None}
    if max(shares.values(), default=0.0) < _WORTH_SAYING:
        return ""
    listed = ", ".join(f"{100 * share:.0f} % in iteration {number}" for number, share in shares.items())
    if asks_for_nothing:
        return f"Feedback that asked for nothing, so that the policy imitates its own draft: {listed}."
    return f"Picks that equal their draft, so that the policy imitates it: {listed}."


def _says_when_content(work: WorkFolder) -> str:
    """What feedback says on a draft without faults, where a program of the package gives it; "" where that is open."""
    feedback = work.config.get("feedback") or {}
    task = str(work.config.get("task"))
    if task not in registry.TASKS.builtins or feedback.get("source") != "oracle" or feedback.get("control"):
        return ""
    return registry.TASKS.load(task).favourable


def _asked_for_nothing(iteration: Iteration, words: str) -> float | None:
    rows = iteration.rows("feedback").values()
    return sum(row.text == words for row in rows) / len(rows) if rows else None


def _kept(iteration: Iteration) -> float | None:
    """The share of picks that equal the draft."""
    drafts, drawn = iteration.rows("draft"), iteration.rows("refine")
    rows = [row for i, row in iteration.rows("score").items() if i in drafts and i in drawn and not row.overruled_by]
    same = [drawn[row.id].texts[row.chosen].strip() == drafts[row.id].text.strip() for row in rows]
    return sum(same) / len(same) if same else None
