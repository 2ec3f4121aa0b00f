"""Calibration by hand."""

import numpy as np
import pytest

from ilf_jax.evaluation import calibration

pytestmark = pytest.mark.fast


def test_bins_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong: it said no at 0.1), 0.65 (right), one half (half right).
    found = calibration.reliability([0.9, 0.1, 0.65, 0.5], [True, True, True, False], bins=5)
    assert [(b.n, b.accuracy) for b in found] == [(1, 0.5), (1, 1.0), (2, 0.5)]
    assert [b.confidence for b in found] == pytest.approx([0.5, 0.65, 0.9])
    assert calibration.expected_calibration_error(found) == pytest.approx((0 + 0.35 + 2 * 0.4) / 4)


def test_drawn_from_their_own_probabilities_they_are_calibrated():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    outcomes = rng.random(20_000) < p
    assert calibration.expected_calibration_error(calibration.reliability(p, outcomes)) < 0.02
    sure = np.where(p > 0.5, 0.99, 0.01)
    assert calibration.expected_calibration_error(calibration.reliability(sure, outcomes)) > 0.2


@pytest.mark.parametrize(("p", "outcomes", "message"), [
    ([], [], "no values"), ([0.5], [True, False], "1 probabilities, 2 outcomes"), ([1.5], [True], r"\[0, 1\]"),
    ([float("nan")], [True], "nan"),
])
def test_refuses(p, outcomes, message):
    with pytest.raises(ValueError, match=message):
        calibration.reliability(p, outcomes)
