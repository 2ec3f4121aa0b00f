"""Generation: prefill once a document, decode all its candidates. Drafts are the same step with one candidate."""

import jax
import jax.numpy as jnp

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import FLOAT32, ComputeOptions
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import Sampling


def refine_step(
    config: ModelConfig, params: transformer.Params, prompts_BxP: jax.Array, lengths_B: jax.Array,
    keys_BxCx2: jax.Array, sampling: Sampling, ends_V: jax.Array, *, max_new_tokens: int,
    compute: ComputeOptions = FLOAT32,
) -> decode.Generated:
    """C continuations of each of B prompts (right-padded; a length of 0 marks a row that only fills up the batch).

    Args:
        config, params: of the model.
        prompts_BxP, lengths_B: the prompts.
        keys_BxCx2: see `decode.candidate_keys`.
        sampling: how tokens are chosen.
        ends_V: 1 at tokens after which a row ends, -1 at tokens that are never drawn.
        max_new_tokens: of each continuation.
        compute: precision and kernels.
    """
    all_of_them = jnp.int32(len(lengths_B))
    return start_step(
        config, params, prompts_BxP, lengths_B, keys_BxCx2, sampling, ends_V, all_of_them,
        max_new_tokens=max_new_tokens, compute=compute,
    ).out


def start_step(
    config: ModelConfig, params: transformer.Params, prompts_BxP: jax.Array, lengths_B: jax.Array,
    keys_BxCx2: jax.Array, sampling: Sampling, ends_V: jax.Array, until: jax.Array, *, max_new_tokens: int,
    compute: ComputeOptions = FLOAT32,
) -> decode.Slots:
    """As `refine_step`, arguments included, but only until `until` (a scalar) of the B documents are finished."""
    slots = decode.start(
        config, params, prompts_BxP, lengths_B, keys_BxCx2, sampling, ends_V, max_new_tokens=max_new_tokens,
        compute=compute,
    )
    return decode.run(config, params, slots, sampling, ends_V, until, compute=compute)


def refill_step(
    config: ModelConfig, params: transformer.Params, slots: decode.Slots, prompts_RxP: jax.Array,
    lengths_R: jax.Array, keys_RxCx2: jax.Array, at_R: jax.Array, sampling: Sampling, ends_V: jax.Array,
    until: jax.Array, *, compute: ComputeOptions = FLOAT32,
) -> decode.Slots:
    """Puts R more documents into free slots, and decodes until `until` documents are finished.

    Continuous batching: a slot does not stand idle until the longest output of its batch has ended.

    Args:
        config, params: of the model.
        slots: B documents under way.
        prompts_RxP, lengths_R, keys_RxCx2: of the new documents, as for `refine_step`.
        at_R: the slot of each new document, whose document before is finished; -1 drops the new one.
        sampling: how tokens are chosen.
        ends_V: 1 at tokens after which a row ends, -1 at tokens that are never drawn.
        until: a scalar; B waits for all.
        compute: precision and kernels.
    """
    limit = slots.out.tokens_BxCxL.shape[2]
    new = decode.start(
        config, params, prompts_RxP, lengths_R, keys_RxCx2, sampling, ends_V, max_new_tokens=limit, compute=compute
    )
    return decode.run(config, params, decode.put(slots, new, at_R), sampling, ends_V, until, compute=compute)
