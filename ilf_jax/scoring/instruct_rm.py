"""InstructRM (PAPER: R = p(yes) / (p(yes) + p(no)), averaged over an ensemble of prompts)."""

import numpy as np
import scipy.special


def favourable_probability(logits: np.ndarray) -> np.ndarray:
    """p(yes) / (p(yes) + p(no)) from logits whose last axis is (favourable, other): a sigmoid of their difference."""
    difference = logits[..., 0].astype(np.float64) - logits[..., 1]
    return scipy.special.expit(difference)


def ensemble(probabilities_CxP: np.ndarray) -> np.ndarray:
    """Mean over the P prompts, for each of C candidates."""
    return probabilities_CxP.mean(axis=-1)
