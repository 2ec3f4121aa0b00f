"""Rewards and preferences against numbers worked out by hand."""

import numpy as np
import pytest

from ilf_jax.inference import reward_scorer

pytestmark = [pytest.mark.fast, pytest.mark.versions]


def test_log_odds_and_preference_by_hand():
    # p(yes) = 0.8 against 0.2, and 0.5 against 0.5: odds of 4 to 1 and of 1 to 1.
    rewards = reward_scorer.log_odds(np.log(np.array([[0.8, 0.2], [0.5, 0.5]], np.float32)))
    np.testing.assert_allclose(rewards, [np.log(4), 0], atol=1e-6)
    # One is good and the other is not: 0.8 * 0.5 / (0.8 * 0.5 + 0.5 * 0.2).
    assert reward_scorer.preference(rewards[0], rewards[1]) == pytest.approx(0.8)
    assert reward_scorer.preference(rewards[1], rewards[0]) == pytest.approx(0.2)


def test_both_orders_cancel_a_bias_towards_one_position():
    np.testing.assert_allclose(reward_scorer.over_questions(np.array([[2.0, -2.0], [3.0, 1.0]])), [0.0, 2.0])


def test_each_kind_reads_its_own_number():
    logits = np.array([[2.0, -1.0]], np.float32)
    assert reward_scorer.READ["classification"](logits) == pytest.approx(3.0)
    assert reward_scorer.READ["comparison"](logits) == pytest.approx(3.0)
    assert reward_scorer.READ["scalar"](np.array([[0.25]], np.float32)) == pytest.approx(0.25)
