"""Feedback by program, for tasks that can judge by themselves."""

from collections.abc import Sequence

from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.tasks.task import Task


def give(task: Task, examples: Sequence[Example], drafts: Sequence[Draft]) -> list[Feedback]:
    """The task's own feedback on each draft."""
    pairs = zip(examples, drafts, strict=True)
    return [Feedback(e.id, task.oracle_feedback(e, d.text), "oracle") for e, d in pairs]
