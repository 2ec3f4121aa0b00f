"""Keys and values already computed: the shared prefix of a document, and each candidate's own continuation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

KV = tuple[jax.Array, jax.Array]
"""Keys and values."""


@struct.dataclass
class Prefix:
    """Keys and values of a prompt, held once for all its candidates; tuples run over stacks, then over single layers.

    Attributes:
        keys, values: B x K x P x head_dim each, positions 0..P-1, right-padded; those of a stack's layers one behind
            another on an axis before.
        lengths_B: how many of the P positions are real.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    lengths_B: jax.Array


@struct.dataclass
class Cache:
    """Each candidate's own keys and values; tuples run over stacks, then over single layers, as in `Prefix`.

    The S slots are a ring that all rows write at one index, so that a step is one update in place even where documents
    were put in at different times; no row ever has more than S tokens.

    Attributes:
        keys, values: B x K x C x S x head_dim each.
        index: scalar, the slot that the next token is written to.
        ages_B: how many tokens of its own each document's candidates have (they advance together).
        layer: inside a scan, which layer of a stack is computed.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    index: jax.Array
    ages_B: jax.Array
    layer: jax.Array | None = None

    def write(self, old: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys or values with those of one more token, B x K x C x 1 x head_dim; and the part that is one layer's.

        Inside a scan, a stack is written to where it lies, which spares a copy of all layers' in each step.
        """
        at: tuple[Any, ...] = (0, 0, 0, self.index, 0)
        if self.layer is None:
            of_layer = jax.lax.dynamic_update_slice(old, new, at)
            return of_layer, of_layer
        stack = jax.lax.dynamic_update_slice(old, new[None], (self.layer, *at))
        return stack, jax.lax.dynamic_index_in_dim(stack, self.layer, keepdims=False)


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
        """The same, with the keys and values of one stack or single layer in place of all."""

        def pick(kv: Any) -> Any:  # a Prefix or a Cache
            return kv and kv.replace(keys=kv.keys[layer], values=kv.values[layer])

        return dataclasses.replace(self, prefix=pick(self.prefix), cache=pick(self.cache))

    def in_scan(self, prefix: KV | None, cache: KV | None, layer: jax.Array) -> "AttentionContext":
        """The same inside a scan over a stack: the prefix of one layer, and the cache of all, see `Cache.write`."""

        def with_kv(kv: Any, pair: KV | None, **more: Any) -> Any:
            return kv if pair is None else kv.replace(keys=pair[0], values=pair[1], **more)

        return dataclasses.replace(
            self, prefix=with_kv(self.prefix, prefix), cache=with_kv(self.cache, cache, layer=layer))


def empty_cache(prefix: Prefix, candidates: int, slots: int) -> Cache:
    """A cache of free slots behind a prefix.

    Args:
        prefix: of B documents.
        candidates: of each document.
        slots: tokens that a candidate may have.
    """

    def zeros(of_prefix: jax.Array) -> jax.Array:
        *before, _, head_dim = of_prefix.shape
        return jnp.zeros((*before, candidates, slots, head_dim), of_prefix.dtype)

    keys, values = (tuple(map(zeros, of)) for of in (prefix.keys, prefix.values))
    return Cache(keys, values, jnp.zeros((), jnp.int32), jnp.zeros(len(prefix.lengths_B), jnp.int32))
