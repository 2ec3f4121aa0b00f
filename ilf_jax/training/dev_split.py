"""Which examples are held back to measure a dev loss: whole documents, so that none is learned and measured."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.runtime import progress
from ilf_jax.training.packing import TrainingExample


def split(
    examples: Sequence[TrainingExample], dev_fraction: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """(Training examples, dev examples), each in their order.

    The dev set has at least one document if it is wanted at all, and never all of them: of a single document nothing is
    held back.

    Args:
        examples: examples of the same `document` stay together; one without a document stands for itself.
        dev_fraction: share of the documents to hold back; 0: none.
        seed: chooses them.
    """
    documents: dict[str | int, int] = {}
    numbers = [documents.setdefault(e.document or i, len(documents)) for i, e in enumerate(examples)]
    if dev_fraction == 0:
        return list(examples), []
    count = min(len(documents) - 1, max(1, round(dev_fraction * len(documents))))
    if count == 0:
        progress.log("all examples are about one document: none is held back, and training does not stop early")
    held_back = set(np.random.default_rng(seed).permutation(len(documents))[:count].tolist())
    return ([e for e, number in zip(examples, numbers, strict=True) if number not in held_back],
            [e for e, number in zip(examples, numbers, strict=True) if number in held_back])
