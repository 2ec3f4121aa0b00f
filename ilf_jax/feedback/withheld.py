"""No feedback: drafts are refined without, as a control."""

from collections.abc import Sequence

from ilf_jax.config import Config
from ilf_jax.config_sections import stages_before_finetuning
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task

_READ_FEEDBACK = ("instruct_rm", "embedding")
_LEARN_FEEDBACK = ("fcp", "sdpo", "feedback_modelling")


class Withheld(FeedbackSource):
    """Empty feedback for every draft."""

    @classmethod
    def check(
        cls, config: Config, task: Task, examples: Sequence[Example] | None, key: str = "config.feedback.source='none'"
    ) -> None:
        """Raises InputError if scoring, or the text to imitate, needs feedback."""
        scored = "score" in stages_before_finetuning(
            config.finetune.target, config.finetune.objective, config.finetune.feedback_weight, config.refine.source)
        if scored and config.score.method in _READ_FEEDBACK:
            raise InputError(f"{key} with config.score.method={config.score.method!r}, which "
                             "looks for feedback in refinements; use random, longest, first or reward_model")
        if config.finetune.target == "feedback_refinement":
            raise InputError(f"config.finetune.target='feedback_refinement' with {key}: there would be no feedback to "
                             "write")
        if config.finetune.objective in _LEARN_FEEDBACK:
            raise InputError(f"config.finetune.objective={config.finetune.objective!r} with {key}: it learns from the "
                             "words of feedback, and there would be none")

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once."""
        return Pending.ready([Feedback(d.example.id, "", "none") for d in documents])
