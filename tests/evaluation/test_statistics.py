"""Means and standard errors against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from ilf_jax.evaluation import statistics

pytestmark = [pytest.mark.fast, pytest.mark.versions]


@pytest.mark.parametrize("n", [2, 3, 50])
def test_mean_is_scipys(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    metric = statistics.mean("x", values.tolist())
    assert metric.value == pytest.approx(values.mean(), rel=1e-12)
    assert metric.stderr == pytest.approx(stats.sem(values), rel=1e-12)
    assert (metric.name, metric.n) == ("x", n)


def test_by_hand():
    # mean 2, squared deviations 1 + 0 + 1, sd = 1, SEM = 1 / sqrt(3)
    assert statistics.mean("x", [1, 2, 3]).stderr == pytest.approx(1 / math.sqrt(3))


def test_proportion():
    metric = statistics.proportion("p", [True, False, True, True])
    assert metric.value == 0.75
    assert metric.stderr == pytest.approx(stats.sem([1, 0, 1, 1]))
    assert metric.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


def test_one_value_has_no_standard_error():
    metric = statistics.mean("x", [4.0])
    assert (metric.value, metric.n) == (4.0, 1)
    assert math.isnan(metric.stderr)


@pytest.mark.parametrize(("call", "values", "message"), [
    (statistics.mean, [], "x: no values"),
    (statistics.mean, [1.0, float("nan")], "x: value 1 of 2 is nan"),
    (statistics.mean, [float("inf")], "x: value 0 of 1 is inf"),
    (statistics.mean, [[1.0]], "x: needs a flat sequence"),
    (statistics.proportion, [0, 0.5], "x: a proportion takes"),
    (statistics.proportion, [], "x: no values"),
])
def test_errors(call, values, message):
    with pytest.raises(ValueError, match=message):
        call("x", values)


def test_rank_correlation():
    assert statistics.rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # by hand
    assert statistics.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert statistics.rank_correlation([1, 2], [5, 5]) is None
