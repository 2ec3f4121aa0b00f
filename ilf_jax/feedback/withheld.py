"""No feedback: drafts are refined without, as a control."""

from collections.abc import Sequence

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task

_READ_FEEDBACK = ("instruct_rm", "embedding")


class Withheld(FeedbackSource):
    """Empty feedback for every draft."""

    @classmethod
    def check(cls, config: Config, task: Task, examples: Sequence[Example] | None) -> None:
        """Raises InputError if scoring, or the text to imitate, needs feedback."""
        if config.score.method in _READ_FEEDBACK:
            raise InputError(f"config.feedback.source='none' with config.score.method={config.score.method!r}, which "
                             "looks for feedback in refinements; use random, longest, first or reward_model")
        if config.finetune.target == "feedback_refinement":
            raise InputError("config.finetune.target='feedback_refinement' with config.feedback.source='none': there "
                             "would be no feedback to write")

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once."""
        return Pending.ready([Feedback(d.example.id, "", "none") for d in documents])
