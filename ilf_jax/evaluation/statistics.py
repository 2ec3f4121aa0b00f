"""Means with standard errors. Every number of an evaluation is one of these."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # scipy.stats takes half a second to import: at its first use

# Of the normal distribution, 97.5 %.
_Z = 1.959963984540054
# Successes and failures from which on a share has a standard error worth its name.
_ENOUGH_OF_EACH = 5


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        name: as in metrics.jsonl.
        value: in the units of `name`; rates are shares in [0, 1].
        stderr: standard error of `value`, in the same units; nan if n = 1.
        n: number of independent observations (documents).
        low, high: bounds of the value, 95 %, where a standard error says little: a share near 0 or 1.
        by_document: what the value is the mean of, by example id, where whoever measured it says so.
    """

    name: str
    value: float
    stderr: float
    n: int | None
    low: float | None = None
    high: float | None = None
    by_document: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False, repr=False)


def plain(name: str, value: float) -> Metric:
    """A number that is not a mean over documents: no standard error, no n."""
    return Metric(name, value, float("nan"), None)


def mean(name: str, values: Sequence[float]) -> Metric:
    """Mean and its standard error, SEM = sd(ddof = 1) / sqrt(n), as scipy.stats.sem.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    array = check_finite(name, values)
    stderr = float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else float("nan")
    return Metric(name, float(array.mean()), stderr, array.size)


def proportion(name: str, successes: Sequence[bool | float]) -> Metric:
    """Share of successes, with SEM (see `mean`); with Wilson's interval where one outcome is rarer than 5 in n.

    Raises:
        ValueError: there are no values, or one is neither 0 nor 1.
    """
    array = check_finite(name, successes)
    if not np.isin(array, (0.0, 1.0)).all():
        raise ValueError(f"{name}: a proportion takes values 0 and 1 only")
    metric = mean(name, array.tolist())
    successes_in_n = int(array.sum())
    if min(successes_in_n, array.size - successes_in_n) >= _ENOUGH_OF_EACH:
        return metric
    low, high = wilson(successes_in_n, array.size)
    return dataclasses.replace(metric, low=low, high=high)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which holds near 0 and 1, where the normal one has no width."""
    middle = (successes + _Z**2 / 2) / (n + _Z**2)
    half = _Z * math.sqrt(successes * (n - successes) / n + _Z**2 / 4) / (n + _Z**2)
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half


def share_stderr(successes: int, n: int) -> float:
    """Standard error of a share: half of Wilson's interval at z = 1, which has a width near 0 and 1, too."""
    share = successes / n
    return float(np.sqrt(share * (1 - share) / n + 1 / (4 * n**2)) / (1 + 1 / n))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho of two scores of the same items; None if all scores of one are equal."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(scipy.stats.spearmanr(first, second).statistic)


def check_finite(name: str, values: Sequence[float]) -> np.ndarray:
    """The values as a float64 vector. Raises ValueError if there are none or one is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: needs a flat sequence of numbers, but the shape is {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: no values to average")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: value {int(bad[0])} of {array.size} is {array[bad[0]]}; all must be finite")
    return array
