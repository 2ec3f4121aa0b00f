"""Feedback-conditional policy: learn what drafts earn which feedback, then ask for favourable feedback."""

from ilf_jax.config import Config
from ilf_jax.config_sections import Training
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.records import Target
from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import LearnedFrom, refuse_prompt_loss


class FeedbackConditional(NextToken):
    """-log pi(x0 | c, f), summed over tokens.

    Luo et al. 2025, "Language Models Can Learn from Verbal Feedback Without Scalar Rewards" (arXiv 2509.22638). From
    then on the policy reads a favourable comment in the place of f, where it is evaluated and where it drafts: further
    iterations are the paper's bootstrap rounds.
    """

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        refuse_prompt_loss(config)

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The draft, behind the document and the feedback."""
        assert learned.draft is not None and learned.feedback is not None
        if not learned.draft.text.strip():
            return []
        return [Target(learned.example.id, learned.feedback_prompt, learned.draft.text, "initial",
                       context="feedback", feedback=learned.feedback.text)]
