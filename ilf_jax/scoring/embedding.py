"""Similarity of feedback and refinement in a model's hidden states (PAPER: the embedding-similarity scorer)."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores


def cosine(feedback_D: np.ndarray, candidates_CxD: np.ndarray) -> np.ndarray:
    """Cosine of the feedback with each candidate; inputs need not have unit length."""
    norms = np.linalg.norm(feedback_D) * np.linalg.norm(candidates_CxD, axis=-1)
    return candidates_CxD @ feedback_D / np.maximum(norms, 1e-12)


def _texts(document: RefinedDocument) -> list[str]:
    return [document.feedback, *document.candidates]


class Embedding(Scorer):
    """Similarity of each candidate to the feedback, by config.embedder."""

    def __init__(self, context: ScorerContext) -> None:
        super().__init__(context)
        self._lm = lm = context.roles.get("embedder")
        texts = [text for d in context.documents for text in _texts(d)]
        ids = LookAhead(range(len(texts)), key=str, encode=lambda i: lm.text_ids(texts[i]), tokens=len,
                        size=lambda i: text_size(texts[i]))
        self._row_lengths = lm.planner.row_lengths(ids.sampled_tokens, ids.share, purpose=f"score {context.iteration}")

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Waits for the device: embeddings are quick."""
        texts = [_texts(d) for d in documents]
        flat = [text for of_document in texts for text in of_document]
        vectors = iter(self._lm.embed(flat, self.context.config.score.batch_size, self._row_lengths))
        stacked = [np.stack([next(vectors) for _ in of_document]) for of_document in texts]
        return Pending.ready([Scores(cosine(rows[0], rows[1:])) for rows in stacked])
