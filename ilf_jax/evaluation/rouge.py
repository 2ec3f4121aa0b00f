"""ROUGE (Lin 2004) of outputs against references, by the package rouge-score."""

from collections.abc import Sequence

from rouge_score import rouge_scorer

from ilf_jax.evaluation import statistics

# Name of the metric -> name in rouge-score. ROUGE-L is that of the whole text taken as one sentence.
TYPES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge(outputs: Sequence[str], references: Sequence[str], *, stem: bool = True) -> list[statistics.Metric]:
    """Mean F1 in [0, 1] of ROUGE-1, ROUGE-2 and ROUGE-L over pairs, with SEM.

    Args:
        outputs: one text a document; an empty one scores 0.
        references: for each output, the text to compare it with.
        stem: compare word stems (Porter), as is usual for English summaries.

    Raises:
        ValueError: no pairs, or as many outputs as references are not given.
    """
    if len(outputs) != len(references):
        raise ValueError(f"rouge: {len(outputs)} outputs for {len(references)} references")
    if not outputs:
        raise ValueError("rouge: no pairs to compare")
    scorer = rouge_scorer.RougeScorer(list(TYPES.values()), use_stemmer=stem)
    scores = [scorer.score(target, output) for output, target in zip(outputs, references, strict=True)]
    return [statistics.mean(name, [score[kind].fmeasure for score in scores]) for name, kind in TYPES.items()]
