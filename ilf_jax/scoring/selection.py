"""From scores to what is imitated: the best of N, or all N with weights."""

from collections.abc import Sequence

import numpy as np
from scipy import special


def best_of_n(scores_BxC: np.ndarray, mask_BxC: np.ndarray) -> np.ndarray:
    """Index of the best allowed candidate of each row, the first among equals; among all if none is allowed."""
    allowed = np.where(mask_BxC.any(axis=-1, keepdims=True), mask_BxC, True)
    return np.argmax(np.where(allowed, scores_BxC, -np.inf), axis=-1)


def posterior_weights(scores_BxC: np.ndarray, mask_BxC: np.ndarray, beta: float) -> np.ndarray:
    """softmax(beta R) over the allowed candidates of each row; over all of them if none is allowed.

    PAPER: the self-normalised importance weights of pi* ~ exp(beta R), with the proposal's probabilities dropped. For
    beta to infinity they are those of `best_of_n`, ties apart.
    """
    allowed = np.where(mask_BxC.any(axis=-1, keepdims=True), mask_BxC, True)
    return special.softmax(np.where(allowed, beta * np.asarray(scores_BxC, np.float64), -np.inf), axis=-1)


def pick(scores_C: np.ndarray, usable: Sequence[bool]) -> int:
    """`best_of_n` of one row."""
    return int(best_of_n(np.asarray(scores_C)[None], np.array([usable]))[0])
