"""What alternating pairs of measurements say."""

from collections.abc import Sequence

import numpy as np
import scipy.stats


def ratio(with_s: Sequence[float], without_s: Sequence[float]) -> dict[str, float]:
    """Ratio of the pairs' seconds, without / with, and its 95 % interval.

    Returns:
        ratio: median over the pairs; low, high: bounds for the geometric mean, by Student's t over the logarithms, NaN
        for a single pair.
    """
    logs = np.log(np.asarray(without_s) / np.asarray(with_s))
    low, high = np.nan, np.nan
    if logs.size > 1:
        half = scipy.stats.t.ppf(0.975, logs.size - 1) * logs.std(ddof=1) / np.sqrt(logs.size)
        low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
    return {"ratio": float(np.exp(np.median(logs))), "low": float(low), "high": float(high)}
