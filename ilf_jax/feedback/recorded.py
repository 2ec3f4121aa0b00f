"""Feedback that the data holds."""

from collections.abc import Sequence

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task


class Recorded(FeedbackSource):
    """The recorded feedback, which is about the recorded draft."""

    @classmethod
    def check(cls, config: Config, task: Task, examples: Sequence[Example] | None) -> None:
        """Raises InputError unless drafts are the recorded ones, and every document has a draft and feedback."""
        if config.draft.source == "policy":
            raise InputError("config.draft.source='policy' with config.feedback.source='recorded': recorded feedback "
                             "is about the recorded draft; use config.draft.source='recorded', or feedback from "
                             "elsewhere")
        for example in examples or ():
            for field in ("feedback", "draft"):
                if not getattr(example, field):
                    raise InputError(
                        f"config.feedback.source='recorded', but document {example.id!r} has no {field}; map it by "
                        f"config.data.fields.{field}, or leave such rows out by config.data.skip_empty=('{field}',)")

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once."""
        return Pending.ready([Feedback(d.example.id, d.example.feedback, "recorded") for d in documents])
