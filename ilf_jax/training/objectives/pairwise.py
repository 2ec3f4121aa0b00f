"""The loss of a reward model with a scalar head."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.config_sections import Training
from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.training import packing
from ilf_jax.training.objectives.objective import Objective, Sums


class Pairwise(Objective):
    """-log sigmoid(r+ - r-) of a scalar head's rewards (Bradley & Terry 1952; PAPER: the standard reward model).

    Every example is a pair of the better text and the worse one, see `pair_example`.
    """

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "Pairwise":
        """Reads no settings but `remat`, so that others do not compile the train step again."""
        return cls(architecture, compute, settings.remat)

    @classmethod
    def pair_example(
        cls, better: str, worse: str, encode: Callable[[Sequence[str]], list[packing.TrainingExample]]
    ) -> packing.TrainingExample:
        """Both texts behind the same prompt. Each has one predicted token, its end: there the reward is read."""
        return packing.pair(*(_only_end(example) for example in encode([better, worse])))

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`. A pair weighs as much as its better text."""
        rewards_RxT = transformer.scalar(params, self.hidden(params, batch))
        # Pairs have two predicted tokens each, so they stand at even places.
        margins = rewards_RxT[:, 0::2] - rewards_RxT[:, 1::2]
        weights = batch["weights"][:, 0::2]
        return jnp.sum(jax.nn.softplus(-margins) * weights), jnp.sum(weights), {}


def _only_end(example: packing.TrainingExample) -> packing.TrainingExample:
    weights = np.zeros(len(example), np.float32)
    weights[-1] = 1.0
    return packing.TrainingExample(example.tokens, weights)
