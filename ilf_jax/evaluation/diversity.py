"""Diversity of a document's candidates. Equal candidates are wasted samples."""

from collections import Counter
from collections.abc import Sequence

from ilf_jax.evaluation import statistics


def diversity(candidates: Sequence[Sequence[str]]) -> list[statistics.Metric]:
    """Duplicates and lengths of candidates, as means over documents with SEM.

    Args:
        candidates: the N >= 1 candidates of each document; N may differ.

    Returns:
        `documents_with_equal_candidates`: share of documents with at least two equal candidates;
        `equal_candidates`: share of a document's candidates that equal another of its candidates;
        `candidate_words`: mean number of words, split at whitespace, of a document's candidates.

    Raises:
        ValueError: there are no documents, or a document has no candidates.
    """
    if not candidates:
        raise ValueError("diversity: no documents")
    for i, texts in enumerate(candidates):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"diversity: document {i} of {len(candidates)} needs a list of at least one candidate")
    shares = [sum(n for n in Counter(texts).values() if n > 1) / len(texts) for texts in candidates]
    words = [sum(len(text.split()) for text in texts) / len(texts) for texts in candidates]
    return [
        statistics.proportion("documents_with_equal_candidates", [share > 0 for share in shares]),
        statistics.mean("equal_candidates", shares),
        statistics.mean("candidate_words", words),
    ]
