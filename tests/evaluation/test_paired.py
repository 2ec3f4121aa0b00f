"""Paired statistics, and intervals of shares, against scipy."""

import numpy as np
import pytest
import scipy.stats

from ilf_jax.evaluation import paired, statistics

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("kind", "n"), [("shares", 90), ("numbers", 90), ("numbers", 300)])
def test_the_interval_is_that_of_scipy(kind, n):
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(2, n)) if kind == "numbers" else rng.integers(0, 2, (2, n))).astype(float)
    ours = ours + 0.2 * theirs
    found = paired.difference(ours.tolist(), theirs.tolist())
    right = scipy.stats.bootstrap((ours - theirs,), np.mean, method="percentile", n_resamples=20_000,
                                  rng=np.random.default_rng(1)).confidence_interval
    spread = right.high - right.low
    assert found.value == pytest.approx(float(np.mean(ours - theirs))) and found.n == n
    assert found.low == pytest.approx(right.low, abs=0.06 * spread)
    assert found.high == pytest.approx(right.high, abs=0.06 * spread)


def test_pairs_are_kept_together():
    """Both systems vary a lot over documents, and differ by the same little everywhere."""
    theirs = np.random.default_rng(0).normal(scale=100, size=50)
    found = paired.difference((theirs + 0.5).tolist(), theirs.tolist())
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5) and found.is_clear
    swapped = paired.difference(theirs.tolist(), (theirs + 0.5).tolist())
    assert swapped.value == pytest.approx(-found.value) and swapped.p_sign == found.p_sign < 1e-9


def test_the_same_seed_gives_the_same_interval():
    ours, theirs = np.random.default_rng(3).normal(size=(2, 30)).tolist()
    assert paired.difference(ours, theirs, 5) == paired.difference(ours, theirs, 5)
    assert paired.difference(ours, theirs, 5).low != paired.difference(ours, theirs, 6).low


def test_sign_test():
    """8 of 10 documents up, 2 down, 3 equal: by hand, 2 (1 + 10 + 45) / 2**10."""
    ours = [1.0] * 8 + [0.0] * 2 + [0.5] * 3
    theirs = [0.0] * 8 + [1.0] * 2 + [0.5] * 3
    assert paired.sign_test(ours, theirs) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert paired.sign_test([1.0], [1.0]) == 1.0


@pytest.mark.parametrize(("above", "below"), [(8, 2), (0, 7), (5, 5), (6, 5), (0, 1), (300, 251)])
def test_sign_test_is_scipy_s_binomial_test(above, below):
    ours = [1.0] * above + [0.0] * below
    right = scipy.stats.binomtest(above, above + below).pvalue
    assert paired.sign_test(ours, [0.5] * len(ours)) == pytest.approx(right, rel=1e-12)


def test_nothing_to_pair_is_refused():
    for ours, theirs in (([], []), ([1.0], [1.0, 2.0]), ([float("nan")], [1.0])):
        with pytest.raises(ValueError):
            paired.difference(ours, theirs)


def test_equal_systems_show_no_difference():
    found = paired.difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.value, found.low, found.high, found.p_sign) == (0, 0, 0, 1) and not found.is_clear


@pytest.mark.parametrize(("successes", "n"), [(0, 128), (128, 128), (3, 40), (0, 1), (1, 1), (250, 500)])
def test_wilson_s_interval_is_scipy_s(successes, n):
    low, high = statistics.wilson(successes, n)
    right = scipy.stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((right.low, right.high), abs=1e-14)
    assert (low == 0, high == 1) == (successes == 0, successes == n)


@pytest.mark.parametrize(("successes", "n"), [(0, 128), (128, 128), (3, 40)])
def test_a_share_near_0_or_1_has_wilson_s_interval(successes, n):
    metric = statistics.proportion("share", [1] * successes + [0] * (n - successes))
    assert (metric.low, metric.high) == statistics.wilson(successes, n) and metric.high - metric.low > 0


def test_shares_in_the_middle_keep_their_standard_error_alone():
    metric = statistics.proportion("share", [0, 1] * 20)
    assert metric.low is None and metric.stderr == pytest.approx(scipy.stats.sem([0, 1] * 20))
