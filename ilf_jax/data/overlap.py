"""Held-out documents that are in the training data, too, word for word or nearly so: there, any policy looks good."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from ilf_jax.tasks import answers

GRAM = 13
"""Words in a row that count as the same passage (Brown et al. 2020, appendix C)."""
BOUND = 0.5
"""Share of a document's passages that must stand in training data for it to count as a near-duplicate."""
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over: 2^64 over the golden ratio


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Counts of documents.

    Attributes:
        equal: held-out documents that equal one of the training data up to case, blanks and punctuation.
        near: further held-out documents of whose 13-word passages at least half stand in the training data.
        held_out: all of them.
        repeated: documents of the training data that equal an earlier one in the same way.
        train: all of them.
    """

    equal: int
    near: int
    held_out: int
    repeated: int
    train: int

    @property
    def leaked(self) -> int:
        """Held-out documents that are in the training data."""
        return self.equal + self.near

    @property
    def warning(self) -> str:
        """What to tell the user; '' if there is nothing."""
        parts = []
        if self.leaked:
            parts.append(f"{self.leaked} of {self.held_out} held-out documents are also in the training data "
                         f"({self.equal} equal up to case and punctuation, {self.near} nearly): numbers on them are "
                         "too good")
        if self.repeated:
            parts.append(f"{self.repeated} of {self.train} training documents repeat an earlier one")
        return "; ".join(parts)


def overlap(train: Iterable[str], held_out: Iterable[str]) -> Overlap:
    """Counts them, in time linear in the texts. Of the training data it keeps one hash a document."""
    texts = [_words(text) for text in held_out]
    wanted = {gram for words in texts for gram in _passages(words)}
    documents: set[int] = set()
    passages: set[int] = set()
    repeated = count = 0
    for text in train:
        words = _words(text)
        count += 1
        if not len(words):
            continue
        document = hash(words.tobytes())
        repeated += document in documents
        documents.add(document)
        passages.update(wanted.intersection(_passages(words)))
    equal = near = 0
    for words in texts:
        grams = _passages(words)
        if len(words) and hash(words.tobytes()) in documents:
            equal += 1
        elif grams and sum(gram in passages for gram in grams) >= BOUND * len(grams):
            near += 1
    return Overlap(equal, near, len(texts), repeated, count)


def _words(text: str) -> np.ndarray:
    """A hash of each word, uint64: Python's, which differs between processes, so only counts leave this module."""
    return np.array([hash(word) for word in answers.folded(text)], np.int64).astype(np.uint64)


def _passages(words: np.ndarray) -> list[int]:
    """A hash of each `GRAM` words in a row: a polynomial in theirs, modulo 2^64."""
    count = len(words) - GRAM + 1
    if count < 1:
        return []
    sums = np.zeros(count, np.uint64)
    for i in range(GRAM):
        sums = sums * _BASE + words[i : i + count]
    return sums.tolist()
