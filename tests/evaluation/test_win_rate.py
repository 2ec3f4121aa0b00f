"""Win rates: the rule of both orders by hand, and length control on data with a known effect."""

import numpy as np
import pytest
from scipy import special, stats

from ilf_jax.evaluation.win_rate import length_controlled_win_rate, outcomes, win_rate

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("first", "second", "outcome"), [
    (0.9, 0.2, 1.0),  # ours preferred in both places
    (0.1, 0.7, 0.0),  # in neither
    (0.9, 0.8, 0.5),  # the judge takes whatever stands first
    (0.1, 0.2, 0.5),  # or second
    (0.5, 0.5, 0.5),
    (0.5, 0.1, 0.5),
    (0.5, 0.9, 0.5),
])
def test_outcomes(first, second, outcome):
    assert outcomes([first], [second]).tolist() == [outcome]
    # The same judgements seen from the other side: there, ours and theirs have changed places.
    assert outcomes([second], [first]).tolist() == [1.0 - outcome]


def test_win_rate():
    metric = win_rate([0.9, 0.1, 0.9, 0.8], [0.2, 0.7, 0.8, 0.1])
    assert metric.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert metric.stderr == pytest.approx(stats.sem([1, 0, 0.5, 1]))
    assert (metric.name, metric.n) == ("win_rate", 4)


def test_equal_lengths_change_nothing():
    results = [1.0, 0.0, 0.5, 1.0, 1.0]
    metric = length_controlled_win_rate(results, [7] * 5, [7] * 5)
    assert (metric.value, metric.stderr) == pytest.approx((np.mean(results), stats.sem(results)))
    # A constant difference cannot be told from quality: the ridge gives it to quality.
    metric = length_controlled_win_rate(results, [9] * 5, [7] * 5)
    assert metric.value == pytest.approx(np.mean(results), abs=1e-6)


def test_length_alone_gives_an_even_rate():
    # The longer text wins 9 times in 10, whosever it is; ours is longer three times as often.
    results = [1.0] * 27 + [0.0] * 3 + [0.0] * 9 + [1.0]
    ours, others = [20] * 30 + [10] * 10, [10] * 30 + [20] * 10
    assert np.mean(results) == 0.7
    metric = length_controlled_win_rate(results, ours, others, ridge=1e-6)
    assert metric.value == pytest.approx(0.5, abs=1e-4)
    # Two cells of 30 and 10, d = +-tanh(1): a = (logit 0.9 + logit 0.1) / 2, its variance (1/(30 pq) + 1/(10 pq)) / 4.
    by_hand = 0.25 * np.sqrt((1 / (30 * 0.09) + 1 / (10 * 0.09)) / 4 * 40 / 39)
    assert metric.stderr == pytest.approx(by_hand, rel=1e-3)


def test_recovers_a_known_rate():
    rng = np.random.default_rng(0)
    difference = rng.normal(5.0, 10.0, 20_000)
    d = np.tanh(difference / np.sqrt(np.mean(difference**2)))
    results = rng.random(difference.size) < special.expit(0.4 + 1.5 * d)
    metric = length_controlled_win_rate(results.astype(float), 50 + difference, np.full(difference.size, 50.0))
    assert abs(metric.value - special.expit(0.4)) < 4 * metric.stderr
    assert results.mean() - metric.value > 0.05
    assert 0.002 < metric.stderr < 0.006


def test_swapping_sides_mirrors_the_rate():
    rng = np.random.default_rng(1)
    results, ours, others = rng.choice([0, 0.5, 1], 60), rng.integers(5, 40, 60), rng.integers(5, 40, 60)
    one = length_controlled_win_rate(results, ours, others)
    two = length_controlled_win_rate(1 - results, others, ours)
    assert (one.value, one.stderr) == pytest.approx((1 - two.value, two.stderr), abs=1e-6)


def test_separable_data_stay_finite():
    metric = length_controlled_win_rate([1, 1, 0, 0], [9, 8, 1, 2], [5, 5, 5, 5])
    assert metric.value == pytest.approx(0.5, abs=0.05)
    assert np.isfinite(metric.stderr)
    assert length_controlled_win_rate([1, 1], [9, 1], [5, 5]).value == 1.0
    assert length_controlled_win_rate([0, 0], [9, 1], [5, 5]).value == 0.0


@pytest.mark.parametrize(("call", "message"), [
    (lambda: win_rate([], []), "no values"),
    (lambda: win_rate([0.5], [0.5, 0.1]), "1 documents in one order, 2 in the other"),
    (lambda: win_rate([float("nan")], [0.5]), "is nan"),
    (lambda: win_rate([1.5], [0.5]), r"must be in \[0, 1\]"),
    (lambda: length_controlled_win_rate([1.0], [3, 4], [3]), "2 and 1 lengths; must be equal"),
    (lambda: length_controlled_win_rate([1.0], [float("nan")], [3]), "is nan"),
    (lambda: length_controlled_win_rate([1.0], [3], [3], ridge=0.0), "ridge"),
])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
