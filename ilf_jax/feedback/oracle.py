"""Feedback by program, for tasks that can judge by themselves."""

from collections.abc import Sequence

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task


class Oracle(FeedbackSource):
    """The task's own feedback on each draft."""

    @classmethod
    def check(cls, config: Config, task: Task, examples: Sequence[Example] | None) -> None:
        """Raises InputError if the task has no oracle."""
        if not task.has_oracle:
            raise InputError(f"config.feedback.source='oracle', but task {task.name!r} has no oracle; "
                             "use 'recorded' or 'critic'")

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once."""
        return Pending.ready([Feedback(d.example.id, self.context.task.oracle_feedback(d.example, d.draft), "oracle")
                              for d in documents])
