"""Feedback modelling: the policy learns to predict the feedback on a draft, by itself or beside another objective."""

import dataclasses
import functools

import jax

from ilf_jax.config import Config
from ilf_jax.config_sections import Training
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.transformer import Params
from ilf_jax.records import Target
from ilf_jax.training import packing
from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import LearnedFrom, Objective, Sums, refuse_prompt_loss

BESIDE = "feedback"


class FeedbackModelling(NextToken):
    """-log pi(f | c, x0), summed over tokens, behind the prompt that asks a critic for feedback (RLTF-FM, arXiv
    2602.02482). config.finetune.feedback_weight has it beside another objective."""

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        refuse_prompt_loss(config)

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The feedback."""
        assert learned.draft is not None and learned.feedback is not None
        if not learned.feedback.text.strip():
            return []
        return [Target(learned.example.id, learned.prompt, learned.feedback.text, "feedback",
                       context="critic", draft=learned.draft.text)]


@dataclasses.dataclass(frozen=True)
class _WithFeedback(Objective):
    """L + w sum -log pi(f | c, x0), over the weight of L."""

    inner: Objective | None = None
    weight: float = 0.0

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`. Logs the loss of the feedback, too."""
        assert self.inner is not None
        loss, weight, metrics = self.inner(params, ref_params, batch)
        imitation = NextToken(self.architecture, self.compute, self.remat)
        of_feedback = imitation(params, {}, packing.of_beside(batch, BESIDE))[0]
        return loss + self.weight * of_feedback, weight, {**metrics, "feedback_loss": of_feedback}


def beside(inner: Objective, weight: float) -> Objective:
    """An objective with feedback modelling beside it: `weight` times the sum over the feedback's tokens is added."""
    cls = _class_for(inner.reference, inner.ema_decay, inner.beside, inner.advantages)
    return cls(inner.architecture, inner.compute, inner.remat, None, inner, weight)


@functools.cache
def _class_for(
    of_inner: str, decay: float, texts: tuple[str, ...], with_advantages: bool
) -> type[_WithFeedback]:
    class WithFeedback(_WithFeedback):
        reference = of_inner
        ema_decay = decay
        beside = (*texts, BESIDE)
        advantages = with_advantages

    return WithFeedback
