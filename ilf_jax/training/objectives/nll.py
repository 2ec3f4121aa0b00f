"""Imitation: the negative log-likelihood of the texts to learn."""

import jax
import jax.numpy as jnp

from ilf_jax.config_sections import Training
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.training.objectives import token_losses
from ilf_jax.training.objectives.objective import Objective, Sums


class NextToken(Objective):
    """Weighted negative log-likelihood of the predicted tokens."""

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "NextToken":
        """Reads no settings but `remat`, so that others do not compile the train step again."""
        return cls(architecture, compute, settings.remat)

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`."""
        losses_RxT = token_losses.losses_at_targets(self.architecture, params, batch, self.compute, self.remat)
        return jnp.sum(losses_RxT * batch["weights"]), jnp.sum(batch["weights"]), {}
