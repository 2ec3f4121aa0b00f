"""Self-distillation from a demonstration: as from feedback, but the teacher has read the refinement."""

from ilf_jax.config_sections import Training
from ilf_jax.records import Target
from ilf_jax.training.objectives.objective import LearnedFrom
from ilf_jax.training.objectives.sdpo import SelfDistillation


class FromDemonstration(SelfDistillation):
    """sum_t KL(pi(. | c, x0_<t) || sg pi_T(. | c, x1, x0_<t)) over the draft's tokens and its end.

    SDFT, arXiv 2601.19897, with the picked refinement x1 (or what config.finetune.target says) as the demonstration;
    otherwise as `SelfDistillation`.
    """

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The draft, and the text that its teacher reads."""
        assert learned.draft is not None
        if not learned.draft.text.strip() or not learned.text.strip():
            return []
        return [Target(learned.example.id, learned.prompt, learned.draft.text, "initial",
                       context="demonstration", refinement=learned.text)]
