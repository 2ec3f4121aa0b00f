"""Keys and values already computed: the shared prefix of a document, and each candidate's own continuation."""

import jax
import jax.numpy as jnp
from flax import struct

from ilf_jax.models.config import ModelConfig


@struct.dataclass
class Prefix:
    """Keys and values of a prompt, held once for all its candidates; tuples run over layers.

    Attributes:
        keys, values: B x K x P x head_dim each, positions 0..P-1, right-padded.
        lengths_B: how many of the P positions are real.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    lengths_B: jax.Array


@struct.dataclass
class Cache:
    """Each candidate's own keys and values; tuples run over layers.

    Attributes:
        keys, values: B x C x K x S x head_dim each; slot s holds position lengths_B + s.
        index: scalar, the next free slot (candidates advance together).
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    index: jax.Array


def empty_cache(config: ModelConfig, batch: int, candidates: int, slots: int, dtype: jnp.dtype) -> Cache:
    """A cache of `slots` free slots for batch x candidates rows."""
    shape = (batch, candidates, config.num_kv_heads, slots, config.head_dim)
    zeros = lambda: tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))  # noqa: E731
    return Cache(keys=zeros(), values=zeros(), index=jnp.zeros((), jnp.int32))
