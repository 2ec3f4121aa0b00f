"""Feedback by a plain function of the user's, one draft at a time or a batch of them."""

from collections.abc import Callable, Sequence
from typing import Any

from ilf_jax import registry
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource, SourceContext
from ilf_jax.records import Feedback
from ilf_jax.runtime import distributed
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks import user_functions


class UserFeedback(FeedbackSource):
    """`feedback(document, draft) -> str`, or `feedback(documents, drafts) -> list[str]` for a whole batch."""

    sharded = True  # it may call a service that costs time or money

    def __init__(self, context: SourceContext) -> None:
        super().__init__(context)
        self._choice = context.config.feedback.source
        self._function: Callable[..., Any] = registry.FEEDBACK.load(self._choice)

    @staticmethod
    def check_function(function: Any, choice: str) -> None:
        """Raises InputError unless the function has one of the two forms."""
        user_functions.check_parameters(
            function, f"config.feedback.source={choice!r}", ("document", "draft"), ("documents", "drafts"))

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Calls the function when the result is asked for: what it returned for earlier shards is on disk by then."""
        return Pending(lambda: self._call(documents))

    def _call(self, documents: Sequence[DraftedDocument]) -> list[Feedback]:
        # Of several processes one calls it: a service that costs money is paid once.
        texts = distributed.on_main(lambda: self._texts(documents))
        return [Feedback(d.example.id, text, self._choice) for d, text in zip(documents, texts, strict=True)]

    def _texts(self, documents: Sequence[DraftedDocument]) -> list[str]:
        texts = user_functions.call(
            self._function, [d.example.id for d in documents],
            [d.example.document for d in documents], [d.draft for d in documents])
        for document, text in zip(documents, texts, strict=True):
            if not isinstance(text, str):
                raise InputError(f"config.feedback.source={self._choice!r}: gave {text!r} for document "
                                 f"{document.example.id!r}; feedback is a string")
        return texts
