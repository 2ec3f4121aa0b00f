"""ROUGE (Lin 2004) of outputs against references, computed by the package rouge-score."""

import functools
import typing
from collections.abc import Sequence

from ilf_jax.evaluation import statistics

if typing.TYPE_CHECKING:
    from rouge_score import rouge_scorer

# Name of the metric -> name in rouge-score. ROUGE-L treats the whole text as one sentence.
TYPES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge(outputs: Sequence[str], references: Sequence[str], *, stem: bool = True) -> list[statistics.Metric]:
    """Mean F1 in [0, 1] of ROUGE-1, ROUGE-2 and ROUGE-L over pairs, with SEM.

    Args:
        outputs: one text per document; an empty text scores 0.
        references: the reference for each output.
        stem: compare word stems (Porter), as is usual for English summaries.

    Raises:
        ValueError: there are no pairs, or the numbers of outputs and references differ.
    """
    if len(outputs) != len(references):
        raise ValueError(f"rouge: {len(outputs)} outputs for {len(references)} references")
    if not outputs:
        raise ValueError("rouge: no pairs to compare")
    scores = [of_one(output, reference, stem=stem) for output, reference in zip(outputs, references, strict=True)]
    return [statistics.mean(name, [score[name] for score in scores]) for name in TYPES]


def of_one(output: str, reference: str, *, stem: bool = True) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L of one output, by the metric's name; see `rouge`."""
    scores = _scorer(stem).score(reference, output)
    return {name: float(scores[kind].fmeasure) for name, kind in TYPES.items()}


@functools.cache
def _scorer(stem: bool) -> "rouge_scorer.RougeScorer":
    from rouge_score import rouge_scorer  # which imports nltk: only runs that have references need it

    return rouge_scorer.RougeScorer(list(TYPES.values()), use_stemmer=stem)
