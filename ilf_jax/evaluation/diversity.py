"""How different the candidates of a document are from one another: equal ones are wasted draws."""

from collections import Counter
from collections.abc import Sequence

from ilf_jax.evaluation import statistics


def diversity(candidates: Sequence[Sequence[str]]) -> list[statistics.Metric]:
    """Equality and length of candidates, as means over documents with SEM.

    Args:
        candidates: for each document its N >= 1 candidates; N may differ between documents.

    Returns:
        `documents_with_equal_candidates`: share of documents two of whose candidates are equal;
        `equal_candidates`: share of a document's candidates that equal another one of it;
        `candidate_words`: mean words, between blanks, of a document's candidates.

    Raises:
        ValueError: no documents, or one without candidates.
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
