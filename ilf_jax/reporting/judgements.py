"""What judges and reward models said: systems against each other, held-out preferences, scorers that agree."""

from statistics import fmean

from ilf_jax.evaluation import ranking, statistics
from ilf_jax.records import Match, Preference
from ilf_jax.reporting.tables import ARM_LABELS, BASELINES, Table, number, with_error
from ilf_jax.reporting.workfolder import Metric, WorkFolder

_BY_PEOPLE = {"references": "references themselves", "human_refinements": "people's refinements themselves"}


def matches(work: WorkFolder) -> list[Match]:
    """Of the last ranking; [] where there is none."""
    ranked = [iteration for iteration in work.iterations if iteration.rows("rank")]
    return list(ranked[-1].rows("rank").values()) if ranked else []


def spoken(system: str) -> str:
    """A system's name for people: initial_best_of_16 -> initial drafts, best of 16."""
    if system in _BY_PEOPLE:
        return _BY_PEOPLE[system]
    name, found, count = system.partition("_best_of_")
    return ARM_LABELS.get(name, name.replace("_", " ")) + (f", best of {count}" if found else "")


def against_all(work: WorkFolder) -> dict[str, Metric]:
    """Each system's win rate against all others, the best one first."""
    found = {}
    for name, outcomes in ranking.against_all(matches(work)).items():
        mean = statistics.mean("win_rate", list(outcomes.values()))
        found[name] = Metric(0, "rank", "win_rate", mean.value, mean.stderr, mean.n)
    return found


def rank_table(work: WorkFolder) -> Table:
    """A row for each system, the best one first: win rate against all others, and against each of them."""
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
    """What the reward model said of held-out comparisons; [] where none was trained."""
    return [row for iteration in work.iterations for row in iteration.rows("reward").values()]


def agreement_table(work: WorkFolder) -> Table:
    """How often two ways of picking take the same refinement, in the last iteration that was scored.

    Beside the scorer and the baselines: each prompt of an ensemble by itself, from all refinements, usable or not.
    """
    last = next((i for i in reversed(work.iterations) if i.rows("score")), None)
    picks: dict[str, list[int]] = {}
    for scored in last.rows("score").values() if last else ():
        picks.setdefault("scorer", []).append(scored.chosen)
        for i in range(len(scored.prompt_scores[0]) if scored.prompt_scores else 0):
            column = [row[i] for row in scored.prompt_scores]
            picks.setdefault(f"prompt {i + 1}", []).append(column.index(max(column)))
        for name in BASELINES:
            if name in scored.picks:
                picks.setdefault(name, []).append(scored.picks[name])
    whole = {name: found for name, found in picks.items() if len(found) == len(picks["scorer"])}

    def share(a: list[int], b: list[int]) -> str:
        return number(fmean(x == y for x, y in zip(a, b, strict=True)))

    rows = [[name, *(share(mine, other) if name != beside else "" for beside, other in whole.items())]
            for name, mine in whole.items()]
    return Table(["same pick", *whole], rows)
