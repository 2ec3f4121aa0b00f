"""Scorers that read nothing into a text. They stand beside every other scorer."""

from collections.abc import Sequence

import numpy as np


def random_scores(texts: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers, C of them."""
    return rng.random(len(texts))


def longest_scores(texts: Sequence[str]) -> np.ndarray:
    """Length in characters."""
    return np.array([len(text) for text in texts], np.float64)


def first_scores(texts: Sequence[str]) -> np.ndarray:
    """The first candidate wins."""
    return -np.arange(len(texts), dtype=np.float64)
