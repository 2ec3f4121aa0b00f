"""Generation: prefill once a document, decode all its candidates. Drafts are the same step with one candidate."""

import jax
import jax.numpy as jnp

from ilf_jax.models import transformer
from ilf_jax.models.config import ModelConfig
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import Sampling


def refine_step(
    config: ModelConfig, params: transformer.Params, prompts_BxP: jax.Array, lengths_B: jax.Array,
    keys_BxCx2: jax.Array, sampling: Sampling, ends_V: jax.Array, *, max_new_tokens: int,
    dtype: jnp.dtype = jnp.float32,
) -> decode.Generated:
    """C continuations of each of B prompts (right-padded; a length of 0 marks a row that only fills up the batch)."""
    alive_B = lengths_B > 0
    last_BxD, prefix = transformer.prefill(config, params, prompts_BxP, jnp.maximum(lengths_B, 1), dtype=dtype)
    return decode.decode(
        config, params, last_BxD, prefix, keys_BxCx2, sampling, ends_V, alive_B, max_new_tokens=max_new_tokens,
        dtype=dtype,
    )
