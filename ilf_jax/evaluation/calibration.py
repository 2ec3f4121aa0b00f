"""Calibration: how often events that were predicted with probability p happen."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


@dataclasses.dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence.

    Attributes:
        confidence: mean predicted probability of the likelier outcome.
        accuracy: share of predictions that are right.
        n: number of predictions.
    """

    confidence: float
    accuracy: float
    n: int


def right(probabilities: Sequence[float], outcomes: Sequence[bool]) -> np.ndarray:
    """1 if the likelier outcome happened, 0 if the other did, 0.5 for a probability of exactly one half.

    Args:
        probabilities: predicted probability of True.
        outcomes: what happened.

    Raises:
        ValueError: there are no predictions, a probability is not in [0, 1], or the lengths differ.
    """
    p = statistics.check_finite("calibration", probabilities)
    happened = np.asarray(outcomes, bool)
    if p.shape != happened.shape:
        raise ValueError(f"calibration: {p.size} probabilities, {happened.size} outcomes")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"calibration: probabilities must be in [0, 1], but range from {p.min()} to {p.max()}")
    return np.where(p == 0.5, 0.5, ((p > 0.5) == happened).astype(np.float64))


def reliability(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Groups binary predictions by their confidence in the likelier outcome, in bins of equal width from 0.5 to 1.

    Args:
        probabilities: predicted probability of True.
        outcomes: what happened.
        bins: number of bins.

    Returns:
        The bins that are not empty, least confident first.

    Raises:
        ValueError: there are no predictions, a probability is not in [0, 1], or the lengths differ.
    """
    hits, p = right(probabilities, outcomes), np.asarray(probabilities, np.float64)
    confidence = np.maximum(p, 1 - p)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [Bin(float(confidence[index == i].mean()), float(hits[index == i].mean()), int(np.sum(index == i)))
            for i in range(bins) if np.any(index == i)]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean of |accuracy - confidence| over bins, weighted by their predictions (Guo et al. 2017, eq. 5)."""
    total = sum(b.n for b in bins)
    return sum(b.n / total * abs(b.accuracy - b.confidence) for b in bins)
