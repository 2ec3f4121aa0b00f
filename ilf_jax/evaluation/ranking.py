"""Systems against each other over the same documents: win rates with intervals, and how each does against all."""

from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.evaluation import statistics, win_rate
from ilf_jax.records import Match

_DRAWS = 2000


def match(
    first: str, second: str, outcomes: Mapping[str, float], first_texts: Mapping[str, str],
    second_texts: Mapping[str, str],
) -> Match:
    """One system against another: win rate with SEM and bootstrap interval, and with the effect of length taken out.

    Args:
        outcomes: by example id: 1 the first wins, 0.5 a tie, 0 it loses.
        first_texts, second_texts: what was compared, by example id.

    Raises:
        ValueError: there are no outcomes.
    """
    ids = list(outcomes)
    values = [outcomes[i] for i in ids]
    rate = statistics.mean("win rate", values)
    low, high = bootstrap_interval(values)
    lengths = [[float(len(texts[i].split())) for i in ids] for texts in (first_texts, second_texts)]
    controlled = win_rate.length_controlled_win_rate(values, *lengths)
    stderr = rate.stderr if rate.n > 1 else None
    return Match(f"{first} vs {second}", first, second, dict(outcomes), rate.value, stderr, low, high, controlled.value)


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bounds of the mean by the percentile bootstrap (Efron 1979): the means of values drawn again with replacement."""
    array = statistics.check_finite("bootstrap", values)
    rng = np.random.default_rng(seed)
    means = rng.choice(array, (_DRAWS, array.size)).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def against_all(matches: Sequence[Match]) -> dict[str, dict[str, float]]:
    """Each system's mean outcome against the others, document by document; the best system first.

    Means over documents of these have standard errors as any mean has; those of a match do not add up to them, for a
    document is in several matches.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for one in matches:
        for name, sign in ((one.first, 1), (one.second, -1)):
            for example_id, outcome in one.outcomes.items():
                of_document = found.setdefault(name, {}).setdefault(example_id, [])
                of_document.append(outcome if sign > 0 else 1 - outcome)
    means = {name: {i: float(np.mean(values)) for i, values in of_system.items()} for name, of_system in found.items()}
    return dict(sorted(means.items(), key=lambda item: -float(np.mean(list(item[1].values())))))
