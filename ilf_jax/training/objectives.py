"""What finetuning minimises. Objectives return sums, not means, so that accumulation and sharding are exact."""

import dataclasses

import jax
import jax.numpy as jnp

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import FLOAT32, ComputeOptions

# Logits of one chunk of predicted tokens stay below this many bytes a row.
_CHUNK_BYTES = 16 * 2**20


def token_losses(
    config: ModelConfig, params: transformer.Params, hidden_RxTxD: jax.Array, targets_RxT: jax.Array,
    num_devices: int = 1,
) -> jax.Array:
    """-log p(target) in nats, R x T, float32; logits exist for one chunk of positions at a time, backwards too.

    Each chunk gathers the embeddings where those are sharded; devices that share the logits have room for larger ones.
    """
    T = targets_RxT.shape[1]
    chunks = max(1, -(-T * config.vocab_size * 4 // (_CHUNK_BYTES * num_devices)))
    size = -(-T // chunks)

    @jax.checkpoint
    def chunk_loss(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        logits = transformer.unembed(config, params, hidden)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    pieces = [chunk_loss(hidden_RxTxD[:, i : i + size], targets_RxT[:, i : i + size]) for i in range(0, T, size)]
    return jnp.concatenate(pieces, axis=1)


def _hidden_at_targets(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], compute: ComputeOptions, remat: str
) -> jax.Array:
    """The hidden states that predict, R x T x D; padding holds numbers without meaning."""
    return transformer.forward(config, params, batch["tokens"], batch["positions"], batch["segments"], batch["index"],
                               compute=compute, remat=remat)


def _at_targets(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], compute: ComputeOptions, remat: str
) -> jax.Array:
    """-log p of each predicted token, R x T; padding holds numbers without meaning."""
    at_targets = _hidden_at_targets(config, params, batch, compute, remat)
    return token_losses(config, params, at_targets, batch["targets"], compute.num_devices)


@dataclasses.dataclass(frozen=True)
class NextTokenLoss:
    """Weighted negative log-likelihood of the predicted tokens. Equal settings are equal (and compile once)."""

    config: ModelConfig
    compute: ComputeOptions = FLOAT32
    remat: str = "none"  # see transformer.Transformer

    def __call__(self, params: transformer.Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(Loss sum in nats, sum of weights) of a batch that `packing.assemble` made."""
        losses = _at_targets(self.config, params, batch, self.compute, self.remat)
        return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"])


@dataclasses.dataclass(frozen=True)
class PairwiseLoss:
    """-log sigmoid(r+ - r-) of a scalar head's rewards (Bradley & Terry 1952; PAPER: the standard reward model).

    Every example is a `packing.pair` of the better text and the worse one, each with one predicted token, its end: the
    reward is read where a language model would predict that.
    """

    config: ModelConfig
    compute: ComputeOptions = FLOAT32
    remat: str = "none"  # see transformer.Transformer

    def __call__(self, params: transformer.Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(Loss sum in nats, sum of weights); a pair weighs as much as its better text."""
        hidden_RxTxD = _hidden_at_targets(self.config, params, batch, self.compute, self.remat)
        rewards_RxT = transformer.scalar(params, hidden_RxTxD)
        # Pairs have two predicted tokens each, so they stand at even places.
        margins = rewards_RxT[:, 0::2] - rewards_RxT[:, 1::2]
        weights = batch["weights"][:, 0::2]
        return jnp.sum(jax.nn.softplus(-margins) * weights), jnp.sum(weights)


def sequence_logprobs(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], *, compute: ComputeOptions = FLOAT32
) -> jax.Array:
    """log p of each predicted token, R x T, by the training forward pass; 0 on padding."""
    losses = _at_targets(config, params, batch, compute, remat="none")
    return jnp.where(batch["weights"] != 0, -losses, 0.0)
