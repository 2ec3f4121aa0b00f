"""Scoring: what a judge would answer, and what a text looks like inside a model."""

import jax
import jax.numpy as jnp

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import FLOAT32, ComputeOptions


def answer_logits_step(
    config: ModelConfig, params: transformer.Params, prefix_BxP: jax.Array, prefix_lengths_B: jax.Array,
    suffix_BxCxL: jax.Array, offsets_BxCxL: jax.Array, leaves_BxCxL: jax.Array, ends_BxCxQ: jax.Array,
    answers_BxCxQxR: jax.Array, *, compute: ComputeOptions = FLOAT32,
) -> jax.Array:
    """Logits of the answer tokens after each of Q questions about C texts, B x C x Q x R, float32.

    Of a model with a scalar head: its reward in their place, R = 1.

    The prefix is computed once for all C suffixes, the stem of a suffix once for all Q questions; only the questions'
    last positions leave the last layer and are unembedded, for the answers' rows only.

    Args:
        config, params: of the model.
        prefix_BxP, prefix_lengths_B: what the suffixes share, right-padded; a length may be 0.
        suffix_BxCxL: the texts with their questions, right-padded.
        offsets_BxCxL, leaves_BxCxL: the suffix as a tree, see `transformer.extend`.
        ends_BxCxQ: where in the suffix each question's last token stands.
        answers_BxCxQxR: token ids of the R answers to each question.
        compute: precision and kernels.
    """
    _, prefix = transformer.prefill(config, params, prefix_BxP, prefix_lengths_B, compute=compute)
    last_BxCxQxD = transformer.extend(
        config, params, prefix, suffix_BxCxL, offsets_BxCxL, leaves_BxCxL, ends_BxCxQ, compute=compute)
    if config.scalar_head:
        return transformer.scalar(params, last_BxCxQxD)[..., None]
    return transformer.unembed(config, params, last_BxCxQxD, answers_BxCxQxR)


def embed_step(
    config: ModelConfig, params: transformer.Params, tokens_BxL: jax.Array, lengths_B: jax.Array, *,
    compute: ComputeOptions = FLOAT32,
) -> jax.Array:
    """Unit-length mean of the hidden states of each text, B x D, float32.

    Args:
        config, params: of the model.
        tokens_BxL, lengths_B: the texts, right-padded; a length is at least 1.
        compute: precision and kernels.
    """
    hidden = transformer.forward(config, params, tokens_BxL, compute=compute).astype(jnp.float32)
    mask = jnp.arange(tokens_BxL.shape[1]) < lengths_B[:, None]
    mean = jnp.sum(hidden * mask[..., None], axis=1) / lengths_B[:, None]
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
