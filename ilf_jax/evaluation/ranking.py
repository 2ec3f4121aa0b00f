"""Compares systems on the same documents: pairwise win rates with intervals, and each system against all others."""

from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.evaluation import statistics, win_rate
from ilf_jax.records import Match

_DRAWS = 2000


def match(
    first: str, second: str, outcomes: Mapping[str, float], first_texts: Mapping[str, str],
    second_texts: Mapping[str, str],
) -> Match:
    """One system against another: win rate with SEM and bootstrap interval, and the length-controlled win rate.

    Args:
        first: name of the first system.
        second: name of the second system.
        outcomes: example id -> 1 if the first system wins, 0.5 for a tie, 0 if it loses.
        first_texts: example id -> text of the first system.
        second_texts: example id -> text of the second system.

    Raises:
        ValueError: there are no outcomes.
    """
    ids = list(outcomes)
    values = [outcomes[i] for i in ids]
    rate = statistics.mean("win rate", values)
    low, high = bootstrap_interval(values)
    ours, theirs = ([float(len(texts[i].split())) for i in ids] for texts in (first_texts, second_texts))
    controlled = win_rate.length_controlled_win_rate(values, ours, theirs)
    stderr = rate.stderr if len(values) > 1 else None
    return Match(f"{first} vs {second}", first, second, dict(outcomes), rate.value, stderr, low, high, controlled.value)


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Confidence interval of the mean by the percentile bootstrap (Efron 1979). Raises ValueError for no values."""
    array = statistics.check_finite("bootstrap", values)
    rng = np.random.default_rng(seed)
    means = rng.choice(array, (_DRAWS, array.size)).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def against_all(matches: Sequence[Match]) -> dict[str, dict[str, float]]:
    """Each system's mean outcome against the others for each document, best system first: name -> id -> mean.

    A document is in several matches, so their outcomes are not independent. Take the SEM over these per-document means
    instead of combining the SEMs of the matches.
    """
    outcomes: dict[str, dict[str, list[float]]] = {}
    for one in matches:
        for name, sign in ((one.first, 1), (one.second, -1)):
            for example_id, outcome in one.outcomes.items():
                of_document = outcomes.setdefault(name, {}).setdefault(example_id, [])
                of_document.append(outcome if sign > 0 else 1 - outcome)
    means = {name: {i: float(np.mean(values)) for i, values in by_id.items()} for name, by_id in outcomes.items()}
    return dict(sorted(means.items(), key=lambda item: -float(np.mean(list(item[1].values())))))
