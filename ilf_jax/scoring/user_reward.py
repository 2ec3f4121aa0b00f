"""Scores by a plain function of the user's, one candidate at a time or a batch of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ilf_jax import registry
from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed
from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores
from ilf_jax.tasks import user_functions


class UserReward(Scorer):
    """`reward(document, draft, feedback, refinement) -> float`, or, with lists,
    `reward(documents, drafts, feedbacks, refinements) -> list[float]` for all candidates of a batch."""

    def __init__(self, context: ScorerContext) -> None:
        super().__init__(context)
        self._choice = context.config.score.method
        self._function: Callable[..., Any] = registry.SCORERS.load(self._choice)

    @staticmethod
    def check_function(function: Any, choice: str) -> None:
        """Raises InputError unless the function has one of the two forms."""
        user_functions.check_parameters(
            function, f"config.score.method={choice!r}", ("document", "draft", "feedback", "refinement"),
            ("documents", "drafts", "feedbacks", "refinements"))

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Calls the function when the result is asked for: what it returned for earlier shards is on disk by then."""
        return Pending(lambda: self._call(documents))

    def _call(self, documents: Sequence[RefinedDocument]) -> list[Scores]:
        # Of several processes one calls it: a service that costs money is paid once.
        rewards = iter(distributed.on_main(lambda: self._rewards(documents)))
        return [Scores(np.array([next(rewards) for _ in d.candidates])) for d in documents]

    def _rewards(self, documents: Sequence[RefinedDocument]) -> list[float]:
        rows = [(d, text) for d in documents for text in d.candidates]
        rewards = user_functions.call(
            self._function, [d.example.id for d, _ in rows], [d.example.document for d, _ in rows],
            [d.draft for d, _ in rows], [d.feedback for d, _ in rows], [text for _, text in rows])
        return [self._number(d.example.id, reward) for (d, _), reward in zip(rows, rewards, strict=True)]

    def _number(self, example_id: str, reward: Any) -> float:
        try:
            value = float(reward)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"config.score.method={self._choice!r}: gave {reward!r} for document {example_id!r}; a "
                             "reward is a finite number")
        return value
