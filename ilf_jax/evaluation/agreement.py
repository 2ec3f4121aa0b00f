"""How far people agree who judged the same items: Krippendorff's alpha, and Cohen's kappa of two people."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import krippendorff
import numpy as np
import scipy  # scipy.stats takes half a second to import: at its first use

Judgements = Mapping[Any, Mapping[str, Any]]
"""Item -> reviewer -> what they said of it."""
_RESAMPLES = 500
_PERFECT = 1.0


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A coefficient, 1 for perfect agreement and 0 for that of chance, and its 95 % bootstrap interval over items.

    Attributes:
        n: items that two or more people judged.
    """

    value: float
    low: float
    high: float
    n: int


def alpha(judgements: Judgements, level: Literal["nominal", "ordinal"] = "nominal") -> Agreement | None:
    """Krippendorff's alpha (Krippendorff 2004, chapter 11) of any number of people, who need not judge all items.

    Args:
        level: "nominal" for classes, "ordinal" for ratings.

    Returns:
        None where fewer than two items have two judgements.
    """
    shared = _shared(judgements)
    if len(shared) < 2:
        return None
    names = sorted({name for of_item in shared for name in of_item})
    values = {value for of_item in shared for value in of_item.values()}
    code: dict[Any, Any] = ({value: i for i, value in enumerate(sorted(values, key=str))} if level == "nominal"
                            else {value: value for value in values})
    table = np.array([[code[of_item[name]] if name in of_item else np.nan for of_item in shared] for name in names],
                     dtype=float)

    def coefficient(columns: np.ndarray) -> float:
        chosen = table[:, columns]
        if len(np.unique(chosen[~np.isnan(chosen)])) < 2:
            return _PERFECT  # all said the same of everything; the formula divides by zero
        return float(krippendorff.alpha(reliability_data=chosen, level_of_measurement=level))

    return _with_interval(coefficient, len(shared))


def kappa(judgements: Judgements) -> Agreement | None:
    """Cohen's kappa (Cohen 1960) of two people: (p_o - p_e) / (1 - p_e).

    Returns:
        None where it is not two people, or they share fewer than two items.
    """
    shared = _shared(judgements)
    names = sorted({name for of_item in shared for name in of_item})
    if len(names) != 2 or len(shared) < 2:
        return None
    values = {value: i for i, value in enumerate({v for of_item in shared for v in of_item.values()})}
    first, second = (np.array([values[of_item[name]] for of_item in shared]) for name in names)

    def coefficient(rows: np.ndarray) -> float:
        a, b = first[rows], second[rows]
        observed = np.mean(a == b)
        expected = sum(np.mean(a == i) * np.mean(b == i) for i in values.values())
        return _PERFECT if expected == 1 else float((observed - expected) / (1 - expected))

    return _with_interval(coefficient, len(shared))


def _shared(judgements: Judgements) -> list[Mapping[str, Any]]:
    return [of_item for of_item in judgements.values() if len(of_item) >= 2]


def _with_interval(coefficient: Callable[[np.ndarray], float], n: int) -> Agreement:
    items = np.arange(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # where all resamples are equal
        found = scipy.stats.bootstrap((items,), coefficient, n_resamples=_RESAMPLES, vectorized=False,
                                      method="percentile", rng=np.random.default_rng(0))
    value = coefficient(items)
    low, high = (value if math.isnan(x) else float(x) for x in found.confidence_interval)
    return Agreement(value, low, high, n)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(low), float(median), float(high)
