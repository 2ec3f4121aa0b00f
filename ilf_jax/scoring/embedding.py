"""Similarity of feedback and refinement in a model's hidden states (PAPER: the embedding-similarity scorer)."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores


def cosine(feedback_D: np.ndarray, candidates_CxD: np.ndarray) -> np.ndarray:
    """Cosine of the feedback with each candidate; inputs need not have unit length."""
    norms = np.linalg.norm(feedback_D) * np.linalg.norm(candidates_CxD, axis=-1)
    return candidates_CxD @ feedback_D / np.maximum(norms, 1e-12)


class Embedding(Scorer):
    """Similarity of each candidate to the feedback, by config.embedder."""

    def __init__(self, context: ScorerContext) -> None:
        super().__init__(context)
        self._lm = context.roles.get("embedder")

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Waits for the device: embeddings are quick."""
        texts = [[d.feedback, *d.candidates] for d in documents]
        flat = [text for of_document in texts for text in of_document]
        vectors = iter(self._lm.embed(flat, self.context.config.score.batch_size))
        stacked = [np.stack([next(vectors) for _ in of_document]) for of_document in texts]
        return Pending.ready([Scores(cosine(rows[0], rows[1:])) for rows in stacked])
