"""Whether probabilities are right: how often what was given p comes true."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


@dataclasses.dataclass(frozen=True)
class Bin:
    """Predictions of like confidence.

    Attributes:
        confidence: their mean probability of being right.
        accuracy: share of them that are.
        n: how many they are.
    """

    confidence: float
    accuracy: float
    n: int


def right(probabilities: Sequence[float], outcomes: Sequence[bool]) -> np.ndarray:
    """1 where the likelier value came true, 0 where the other did, 0.5 for a probability of exactly one half.

    Raises:
        ValueError: see `reliability`.
    """
    p = statistics.check_finite("calibration", probabilities)
    true = np.asarray(outcomes, bool)
    if p.shape != true.shape:
        raise ValueError(f"calibration: {p.size} probabilities, {true.size} outcomes")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"calibration: probabilities must be in [0, 1], but reach from {p.min()} to {p.max()}")
    return np.where(p == 0.5, 0.5, ((p > 0.5) == true).astype(np.float64))


def reliability(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Predictions of a two-valued thing in bins of equal width by the confidence in the likelier value, 0.5 to 1.

    Args:
        probabilities: that it is true.
        outcomes: whether it was.

    Returns:
        The bins that are not empty, least confident first.

    Raises:
        ValueError: nothing to look at, or as many outcomes as probabilities are not given.
    """
    hits, p = right(probabilities, outcomes), np.asarray(probabilities, np.float64)
    confidence = np.maximum(p, 1 - p)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [Bin(float(confidence[index == i].mean()), float(hits[index == i].mean()), int(np.sum(index == i)))
            for i in range(bins) if np.any(index == i)]


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """Mean of |accuracy - confidence| over predictions, bin by bin (Guo et al. 2017, eq. 5)."""
    total = sum(one.n for one in found)
    return sum(one.n / total * abs(one.accuracy - one.confidence) for one in found)
