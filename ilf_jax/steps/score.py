"""Scoring: what a judge would answer, and what a text looks like inside a model."""

import jax
import jax.numpy as jnp

from ilf_jax.models import transformer
from ilf_jax.models.config import ModelConfig


def answer_logits_step(
    config: ModelConfig, params: transformer.Params, prefix_BxP: jax.Array, prefix_lengths_B: jax.Array,
    suffix_BxCxL: jax.Array, suffix_lengths_BxC: jax.Array, answers_BxCxR: jax.Array, *,
    dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
    """Logits of the answer tokens after prefix + suffix, B x C x R, float32.

    The prefix is computed once for all C suffixes; only the last position is unembedded, for the answers' rows only.
    A prefix may be empty (length 0), a suffix may not; rows that only fill up the batch have a suffix of length 1.
    """
    _, prefix = transformer.prefill(config, params, prefix_BxP, prefix_lengths_B, dtype=dtype)
    hidden, _ = transformer.extend(config, params, prefix, suffix_BxCxL, dtype=dtype)
    last = jnp.take_along_axis(hidden, (suffix_lengths_BxC - 1)[..., None, None], axis=2)[:, :, 0]
    return transformer.unembed(config, params, last, answers_BxCxR)


def embed_step(
    config: ModelConfig, params: transformer.Params, tokens_BxL: jax.Array, lengths_B: jax.Array, *,
    dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
    """Unit-length mean of the hidden states of each text, B x D, float32."""
    hidden = transformer.forward(config, params, tokens_BxL, dtype=dtype).astype(jnp.float32)
    mask = jnp.arange(tokens_BxL.shape[1]) < lengths_B[:, None]
    mean = jnp.sum(hidden * mask[..., None], axis=1) / lengths_B[:, None]
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
