"""Rewards from what a reward model computes, and the preference between two texts that follows from them."""

import numpy as np
import scipy.special

from ilf_jax.scoring import instruct_rm


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p(good) - log p(bad) from logits whose last axis is (good, bad): a rating's reward, in nats."""
    return logits[..., 0].astype(np.float64) - logits[..., 1]


def head_value(logits: np.ndarray) -> np.ndarray:
    """The scalar head's reward; it stands alone on the last axis."""
    return logits[..., 0].astype(np.float64)


def preference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability that the first of two rewarded texts is the better one: sigmoid(r1 - r2) (Bradley & Terry 1952).

    Of log-odds this is p1 (1 - p2) / (p1 (1 - p2) + p2 (1 - p1)): one is good and the other is not.
    """
    return scipy.special.expit(np.asarray(first, np.float64) - second)


def both_orders(probabilities_x2: np.ndarray) -> np.ndarray:
    """Mean over the two orders in which a pair was shown (last axis): a liking for one place cancels out."""
    return probabilities_x2.mean(axis=-1)


READ = {"comparison": instruct_rm.favourable_probability, "classification": log_odds, "scalar": head_value}
"""What a reward is read from, by config.reward.kind."""
