"""Similarity of feedback and refinement in a model's hidden states (PAPER: the embedding-similarity scorer)."""

import numpy as np


def cosine(feedback_D: np.ndarray, candidates_CxD: np.ndarray) -> np.ndarray:
    """Cosine of the feedback with each candidate; inputs need not have unit length."""
    norms = np.linalg.norm(feedback_D) * np.linalg.norm(candidates_CxD, axis=-1)
    return candidates_CxD @ feedback_D / np.maximum(norms, 1e-12)
