"""What finetuning minimises, one file an objective. `objective.py` has the protocol."""

from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import LearnedFrom, Objective
from ilf_jax.training.objectives.pairwise import Pairwise
from ilf_jax.training.objectives.token_losses import sequence_logprobs
from ilf_jax.training.objectives.user_objective import objective_class
from ilf_jax.training.objectives.weighted import Weighted

BUILT_IN: dict[str, type[Objective]] = {"nll": NextToken, "weighted": Weighted}
"""Choices of config.finetune.objective."""

__all__ = ["BUILT_IN", "LearnedFrom", "NextToken", "Objective", "Pairwise", "Weighted", "objective_class",
           "sequence_logprobs"]
