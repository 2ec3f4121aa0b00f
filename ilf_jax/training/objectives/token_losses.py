"""Negative log-likelihood of the predicted tokens of a training batch, the part that objectives share."""

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
    """-log p(target) in nats, R x T, float32.

    Logits exist for one chunk of positions at a time, in the backward pass too. Each chunk gathers the embeddings where
    those are sharded; devices that share the logits have room for larger chunks.

    Args:
        config: architecture of the model.
        params: the model's params; only the embeddings are read.
        hidden_RxTxD: hidden states that predict the targets.
        targets_RxT: token ids to predict.
        num_devices: devices that share the logits.
    """
    T = targets_RxT.shape[1]
    size = chunk_size(config, T, 1, num_devices)

    @jax.checkpoint
    def chunk_loss(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        logits = transformer.unembed(config, params, hidden)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    pieces = [chunk_loss(hidden_RxTxD[:, i : i + size], targets_RxT[:, i : i + size]) for i in range(0, T, size)]
    return jnp.concatenate(pieces, axis=1)


def chunk_size(config: ModelConfig, num_targets: int, copies: int, num_devices: int = 1) -> int:
    """Positions whose logits exist at a time.

    Args:
        config: architecture of the model.
        num_targets: positions of a row.
        copies: how many such arrays of logits a loss holds.
        num_devices: devices that share the logits.
    """
    chunks = max(1, -(-num_targets * config.vocab_size * 4 * copies // (_CHUNK_BYTES * num_devices)))
    return -(-num_targets // chunks)


def hidden_at_targets(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], compute: ComputeOptions, remat: str
) -> jax.Array:
    """The hidden states that predict the targets, R x T x D; undefined on padding.

    Args:
        config: architecture of the model.
        params: the model's params.
        batch: arrays of `packing.assemble`.
        compute: precision and kernels.
        remat: see `transformer.Transformer`.
    """
    return transformer.forward(config, params, batch["tokens"], batch["positions"], batch["segments"], batch["index"],
                               compute=compute, remat=remat)


def losses_at_targets(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], compute: ComputeOptions, remat: str
) -> jax.Array:
    """-log p of each predicted token in nats, R x T; undefined on padding. Arguments as `hidden_at_targets`."""
    hidden = hidden_at_targets(config, params, batch, compute, remat)
    return token_losses(config, params, hidden, batch["targets"], compute.num_devices)


def sequence_logprobs(
    config: ModelConfig, params: transformer.Params, batch: dict[str, jax.Array], *,
    compute: ComputeOptions = FLOAT32, remat: str = "none",
) -> jax.Array:
    """log p of each predicted token in nats, R x T; 0 on padding. Arguments as `hidden_at_targets`."""
    losses = losses_at_targets(config, params, batch, compute, remat)
    return jnp.where(batch["weights"] != 0, -losses, 0.0)
