"""Rewards from what a reward model computes, and the preference between two texts that follows from them."""

import numpy as np
import scipy.special


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p(favourable) - log p(other) from logits with those on the last axis: a language model's reward, in nats.

    The probability itself would not tell texts apart of which the model is all but sure.
    """
    return logits[..., 0].astype(np.float64) - logits[..., 1]


def head_value(logits: np.ndarray) -> np.ndarray:
    """The scalar head's reward; it stands alone on the last axis."""
    return logits[..., 0].astype(np.float64)


def preference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability that the first of two rewarded texts is the better one: sigmoid(r1 - r2) (Bradley & Terry 1952).

    Of log-odds this is p1 (1 - p2) / (p1 (1 - p2) + p2 (1 - p1)): one is good and the other is not.
    """
    return scipy.special.expit(np.asarray(first, np.float64) - second)


def over_questions(rewards_xQ: np.ndarray) -> np.ndarray:
    """Mean over the questions that were asked about a text (last axis).

    A pair is shown in both orders: a liking for one place cancels out.
    """
    return rewards_xQ.mean(axis=-1)


READ = {"comparison": log_odds, "classification": log_odds, "scalar": head_value}
"""What a reward is read from, by config.reward.kind."""
