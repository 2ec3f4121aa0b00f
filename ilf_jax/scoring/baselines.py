"""Scorers that ignore what a text says. Their picks are recorded beside those of every other scorer."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, Scores


def random_scores(texts: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers, C of them."""
    return rng.random(len(texts))


def longest_scores(texts: Sequence[str]) -> np.ndarray:
    """Length in characters."""
    return np.array([len(text) for text in texts], np.float64)


def first_scores(texts: Sequence[str]) -> np.ndarray:
    """The first candidate wins."""
    return -np.arange(len(texts), dtype=np.float64)


def baseline_scores(seed: int, iteration: int, example_id: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores of all of them for one document's candidates, by name."""
    key = decode.candidate_keys(seed, iteration, "random_scores", [example_id], [0])[0, 0]
    return {"random": random_scores(texts, np.random.default_rng(key)), "longest": longest_scores(texts),
            "first": first_scores(texts)}


class _Baseline(Scorer):
    name: str

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Ready at once."""
        config, iteration = self.context.config, self.context.iteration
        return Pending.ready([
            Scores(baseline_scores(config.seed, iteration, d.example.id, d.candidates)[self.name]) for d in documents])


class Random(_Baseline):
    """Any candidate, decided by seed, iteration and document."""

    name = "random"


class Longest(_Baseline):
    """The candidate with the most characters."""

    name = "longest"


class First(_Baseline):
    """The first candidate."""

    name = "first"
