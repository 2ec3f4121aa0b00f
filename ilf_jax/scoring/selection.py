"""From scores to the candidate that is picked."""

import numpy as np


def best_of_n(scores_BxC: np.ndarray, mask_BxC: np.ndarray) -> np.ndarray:
    """Index of the best allowed candidate of each row, the first among equals; among all if none is allowed."""
    allowed = np.where(mask_BxC.any(axis=-1, keepdims=True), mask_BxC, True)
    return np.argmax(np.where(allowed, scores_BxC, -np.inf), axis=-1)
