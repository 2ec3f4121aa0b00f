"""Judgements: the ranking of systems, held-out preferences of the reward model, agreement of scorers."""

from statistics import fmean

from ilf_jax.evaluation import ranking, statistics
from ilf_jax.records import Match, Preference
from ilf_jax.reporting.tables import BASELINES, TARGET_LABELS, Table, number, with_error
from ilf_jax.reporting.workfolder import Metric, WorkFolder

_HUMAN_TEXTS = {"references": "references themselves", "human_refinements": "human refinements themselves"}


def matches(work: WorkFolder) -> list[Match]:
    """Matches of the last ranking; [] if there is none."""
    ranked = [iteration for iteration in work.iterations if iteration.rows("rank")]
    return list(ranked[-1].rows("rank").values()) if ranked else []


def ranked_iteration(work: WorkFolder) -> int | None:
    """The iteration that `matches` are of."""
    return next((i.number for i in reversed(work.iterations) if i.rows("rank")), None)


def spoken(system: str) -> str:
    """A system's display name: initial_best_of_16 -> initial drafts, best of 16."""
    if system in _HUMAN_TEXTS:
        return _HUMAN_TEXTS[system]
    name, best_of, count = system.partition("_best_of_")
    return TARGET_LABELS.get(name, name.replace("_", " ")) + (f", best of {count}" if best_of else "")


def against_all(work: WorkFolder) -> dict[str, Metric]:
    """Each system's win rate against all others, best system first."""
    win_rates = {}
    for name, outcomes in ranking.against_all(matches(work)).items():
        mean = statistics.mean("win_rate", list(outcomes.values()))
        win_rates[name] = Metric(0, "rank", "win_rate", mean.value, mean.stderr, mean.n)
    return win_rates


def rank_table(work: WorkFolder) -> Table:
    """A row per system, best system first: win rate against all others, and against each of them."""
    overall, rates = against_all(work), {}
    for one in matches(work):
        rates[one.first, one.second] = (one.win_rate, one.low, one.high)
        rates[one.second, one.first] = (1 - one.win_rate, 1 - one.high, 1 - one.low)

    def cell(name: str, other: str) -> str:
        if name == other:
            return ""
        rate, low, high = map(number, rates[name, other])
        return f"{rate} ({low} to {high})"

    rows = [[spoken(name), with_error(metric), *(cell(name, other) for other in overall)]
            for name, metric in overall.items()]
    return Table(["system", "against all", *(f"against {spoken(name)}" for name in overall)], rows)


def preferences(work: WorkFolder) -> list[Preference]:
    """The reward model's predictions on held-out comparisons; [] if none was trained."""
    return [row for iteration in work.iterations for row in iteration.rows("reward").values()]


def agreement_table(work: WorkFolder) -> Table:
    """How often two scorers pick the same text, in the last scored iteration.

    Includes the scorer, its baselines, and each single prompt of an ensemble, which picks from all refinements, usable
    or not. Equal refinements are the same pick.
    """
    last = next((i for i in reversed(work.iterations) if i.rows("score") and i.rows("refine")), None)
    drawn = last.rows("refine") if last else {}
    picks: dict[str, list[str]] = {}
    for scored in last.rows("score").values() if last else ():
        texts = drawn[scored.id].texts if scored.id in drawn else []
        if len(texts) != len(scored.scores):  # of a run under way
            continue
        picks.setdefault("scorer", []).append(texts[scored.chosen])
        for i in range(len(scored.prompt_scores[0]) if scored.prompt_scores else 0):
            column = [row[i] for row in scored.prompt_scores]
            picks.setdefault(f"prompt {i + 1}", []).append(texts[column.index(max(column))])
        for name in BASELINES:
            if name in scored.picks:
                picks.setdefault(name, []).append(texts[scored.picks[name]])
    complete = {name: chosen for name, chosen in picks.items() if len(chosen) == len(picks["scorer"])}

    def share(a: list[str], b: list[str]) -> str:
        return number(fmean(x == y for x, y in zip(a, b, strict=True)))

    rows = [[name, *(share(own, other) if name != other_name else "" for other_name, other in complete.items())]
            for name, own in complete.items()]
    return Table([f"same text, iteration {last.number}" if last else "same text", *complete], rows)
