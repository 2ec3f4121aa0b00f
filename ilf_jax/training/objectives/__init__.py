"""What finetuning minimises, one file an objective. `objective.py` has the protocol."""

from ilf_jax import registry
from ilf_jax.config_sections import Finetune
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.training.objectives import feedback_modelling
from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import LearnedFrom, Objective
from ilf_jax.training.objectives.pairwise import Pairwise
from ilf_jax.training.objectives.token_losses import sequence_logprobs
from ilf_jax.training.objectives.user_objective import objective_class
from ilf_jax.training.objectives.weighted import Weighted

__all__ = ["LearnedFrom", "NextToken", "Objective", "Pairwise", "Weighted", "by_choice", "make",
           "sequence_logprobs"]


def by_choice(choice: str) -> type[Objective]:
    """The class of config.finetune.objective: a built-in one, or a user's own. Raises InputError if it is not there."""
    return objective_class(registry.OBJECTIVES.load(choice), choice)


def make(architecture: ModelConfig, compute: ComputeOptions, settings: Finetune) -> Objective:
    """The objective of config.finetune, with feedback modelling beside it where that has a weight."""
    objective = by_choice(settings.objective).make(architecture, compute, settings)
    if settings.feedback_weight == 0:
        return objective
    return feedback_modelling.beside(objective, settings.feedback_weight)
