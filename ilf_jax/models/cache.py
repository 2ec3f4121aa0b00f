"""Keys and values already computed: the shared prefix of a document, and each candidate's own continuation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ilf_jax.models.architecture import ModelConfig


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

    The S slots are a ring that all rows write at one index, so that a step is one update in place even where documents
    were put in at different times; no row ever has more than S tokens.

    Attributes:
        keys, values: B x K x C x S x head_dim each.
        index: scalar, the slot that the next token is written to.
        ages_B: how many tokens of its own each document's candidates have (they advance together).
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    index: jax.Array
    ages_B: jax.Array


@struct.dataclass
class AttentionContext:
    """What the tokens at hand may attend to.

    Attributes:
        segments_BxL: without a prefix: tokens see those before them in their own segment; None: a row is one.
        prefix: what all candidates of a document stand behind; None: rows by themselves.
        cache: the candidates' own tokens so far; None: they have none but those at hand.
        distance_BxCxLxS: how far back each own key stands (0: the token itself); below 0: not seen. With a prefix only.
    """

    segments_BxL: jax.Array | None = None
    prefix: Prefix | None = None
    cache: Cache | None = None
    distance_BxCxLxS: jax.Array | None = None

    def of_layer(self, layer: int) -> "AttentionContext":
        """The same, with the keys and values of one layer in place of all layers'."""

        def pick(kv: Any) -> Any:  # a Prefix or a Cache
            return kv and kv.replace(keys=kv.keys[layer], values=kv.values[layer])

        return dataclasses.replace(self, prefix=pick(self.prefix), cache=pick(self.cache))


def empty_cache(config: ModelConfig, batch: int, candidates: int, slots: int, dtype: jnp.dtype) -> Cache:
    """A cache of `slots` free slots for batch x candidates rows.

    Args:
        config: the architecture.
        batch: documents.
        candidates: of each document.
        slots: tokens that a candidate may have.
        dtype: of keys and values.
    """
    shape = (batch, config.num_kv_heads, candidates, slots, config.head_dim)

    def zeros() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

    return Cache(zeros(), zeros(), jnp.zeros((), jnp.int32), jnp.zeros(batch, jnp.int32))
