"""Imitation of all candidates, each with a weight that grows with its score."""

import numpy as np
from scipy import special

from ilf_jax.config_sections import Finetune, Training
from ilf_jax.records import Target
from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import LearnedFrom


def posterior_weights(scores_BxC: np.ndarray, mask_BxC: np.ndarray, beta: float) -> np.ndarray:
    """softmax(beta R) over the allowed candidates of each row; over all of them if none is allowed.

    PAPER: the self-normalised importance weights of pi* ~ exp(beta R), with the proposal's probabilities dropped. For
    beta to infinity they are those of `selection.best_of_n`, ties apart.
    """
    allowed = np.where(mask_BxC.any(axis=-1, keepdims=True), mask_BxC, True)
    return special.softmax(np.where(allowed, beta * np.asarray(scores_BxC, np.float64), -np.inf), axis=-1)


class Weighted(NextToken):
    """`NextToken` over all candidates of a document; their weights sum to 1.

    A reviewer's refinement is certain to be the better text: it is learned alone, with weight 1.
    """

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The candidates that are not empty and have a weight above 0; or the reviewer's refinement."""
        if learned.overruled:
            return super().targets(learned, settings)
        assert isinstance(settings, Finetune) and learned.candidates is not None and learned.scored is not None
        weights = posterior_weights(np.array([learned.scored.scores]), np.array([learned.usable]), settings.beta)[0]
        return [Target(learned.example.id, learned.prompt, text, "refinement", float(weight))
                for text, weight in zip(learned.candidates.texts, weights, strict=True) if text.strip() and weight > 0]
