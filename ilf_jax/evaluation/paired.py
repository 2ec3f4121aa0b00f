"""Two systems on the same documents: what differs, by how much, and how sure that is."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from ilf_jax.evaluation import statistics

_RESAMPLES = 10_000
_SIGNIFICANT = 0.05
_FEW_VALUES = 200
_BLOCK = 2_000_000  # numbers held at a time


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much larger one system's mean is than another's.

    Attributes:
        value: the difference of the means, in the units of the metric.
        low, high: its 95 % interval, by paired bootstrap over documents.
        p_sign: of the two-sided sign test that one is as often above the other as below; 1 where they never differ.
        n: documents.
    """

    value: float
    low: float
    high: float
    p_sign: float
    n: int

    @property
    def is_alike(self) -> bool:
        """Whether all documents differ alike, but for rounding: then the interval has no width."""
        return math.isclose(self.low, self.high, rel_tol=1e-9, abs_tol=1e-12)

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero.

        One without width excludes it however few documents there are; so the sign test has to agree there.
        """
        excludes_zero = self.low > 0 or self.high < 0
        return excludes_zero and (not self.is_alike or self.p_sign < _SIGNIFICANT)


def difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Difference:
    """The paired difference `ours` - `theirs`.

    The bootstrap draws documents with replacement, each with both systems' values, and takes the percentiles of the
    mean difference (Efron & Tibshirani 1993, section 13.3).

    Args:
        ours, theirs: a value for each document, in the same order.
        seed: of the resamples.

    Raises:
        ValueError: there are no documents, their numbers differ, or a value is not finite.
    """
    a, b = (statistics.check_finite("paired difference", values) for values in (ours, theirs))
    if a.size != b.size:
        raise ValueError(f"paired difference: {a.size} documents of one system, {b.size} of the other")
    differences = a - b
    low, high = np.percentile(_resampled_means(differences, np.random.default_rng(seed)), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high), sign_test(a, b), a.size)


def _resampled_means(differences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of each resample the mean; in blocks, so that memory does not grow with documents times resamples."""
    values, counts = np.unique(differences, return_counts=True)
    if values.size <= _FEW_VALUES:  # of shares, and of whole numbers: it is enough to draw how often each occurs
        return rng.multinomial(differences.size, counts / differences.size, size=_RESAMPLES) @ values / differences.size
    block = max(1, _BLOCK // differences.size)
    sizes = [min(block, _RESAMPLES - start) for start in range(0, _RESAMPLES, block)]
    return np.concatenate([
        differences[rng.integers(differences.size, size=(size, differences.size))].mean(axis=1) for size in sizes])


def sign_test(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """p of the two-sided sign test; documents on which both are equal do not count, and without others it is 1.

    Twice the chance that a fair coin falls on one side at most as often as on the rarer one here; at most 1.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    above, below = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    return min(1.0, 2 * float(scipy.special.bdtr(min(above, below), above + below, 0.5)))
