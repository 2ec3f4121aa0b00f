"""From scores to the candidate that is picked."""

from collections.abc import Sequence

import numpy as np


def best_of_n(scores_BxC: np.ndarray, mask_BxC: np.ndarray) -> np.ndarray:
    """Index of the best allowed candidate of each row, the first among equals; among all if none is allowed."""
    allowed = np.where(mask_BxC.any(axis=-1, keepdims=True), mask_BxC, True)
    return np.argmax(np.where(allowed, scores_BxC, -np.inf), axis=-1)


def pick(scores_C: np.ndarray, usable: Sequence[bool]) -> int:
    """`best_of_n` of one row."""
    return int(best_of_n(np.asarray(scores_C)[None], np.array([usable]))[0])
