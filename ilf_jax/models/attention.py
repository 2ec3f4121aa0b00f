"""Attention: queries, keys and values in, values out. Softmax in float32; the caller scales the queries.

`causal` is for independent rows, as in training and prefill. `behind_prefix` is for candidates that share their
document's prefix, as in decoding and scoring: one matmul covers the prefix for all candidates of a document.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ilf_jax.models import kernels
from ilf_jax.models.compute import ComputeOptions

# Queries per block. A block computes scores only for keys up to its end, which saves up to half of them, and its
# working set fits a CPU's cache. But more blocks make a larger program, and XLA's CPU backend loads a program in time
# quadratic in its size. So a row gets at most three blocks (which saves a third of the scores), of at least _BLOCK
# queries, until blocks would exceed _LARGEST queries.
_BLOCK, _BLOCKS, _LARGEST = 128, 3, 512
_NEVER = -1e30
# From this many scores per key head and document (1 MiB in float32), a loop saves more than it costs.
_WORTH_A_LOOP = 1 << 18


def causal(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, softcap: float, compute: ComputeOptions,
) -> jax.Array:
    """Each token attends to itself and to earlier tokens of its segment; B x L x K x G x H.

    Args:
        q_BxLxKxGxH: scaled queries, G heads for each of K key heads.
        k_BxKxLxH: keys.
        v_BxKxLxH: values.
        segments_BxL: segment ids; None: each row is one segment.
        window: number of tokens that a token attends to, itself included; None: all earlier ones.
        softcap: scores become softcap * tanh(scores / softcap); 0 means off.
        compute: selects the kernel.
    """
    rows = q_BxLxKxGxH, k_BxKxLxH, v_BxKxLxH, segments_BxL, window
    if compute.attention == "cudnn":
        if not softcap:
            return kernels.flash(*rows)
        kernels.say_fallback("cuDNN", "has no soft cap of scores")
    elif compute.attention == "splash" and compute.mesh is not None:
        reason = kernels.why_not_splash(q_BxLxKxGxH.shape, compute.mesh)
        if reason is None:
            return kernels.splash(*rows, compute.mesh, softcap)
        kernels.say_fallback("splash attention", reason)
    return blockwise(*rows, softcap)


def blockwise(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, softcap: float = 0.0,
) -> jax.Array:
    """`causal` in plain XLA, one block of queries at a time. See `causal` for the arguments."""
    B, L, K, G, H = q_BxLxKxGxH.shape
    q = q_BxLxKxGxH.transpose(0, 2, 3, 1, 4)
    size = min(max(_BLOCK, -(-L // _BLOCKS)), _LARGEST)
    outs = []
    for start in range(0, L, size):
        stop = min(start + size, L)
        first = 0 if window is None else max(0, start - window + 1)
        rows = q[:, :, :, start:stop].reshape(B, K, G * (stop - start), H)
        keys, values = k_BxKxLxH[:, :, first:stop], v_BxKxLxH[:, :, first:stop]
        distance = jnp.arange(start, stop)[:, None] - jnp.arange(first, stop)[None, :]
        mask = distance >= 0
        if window is not None:
            mask = mask & (distance < window)
        mask = mask[None, None, None]
        if segments_BxL is not None:
            same = segments_BxL[:, start:stop, None] == segments_BxL[:, None, first:stop]
            mask = mask & same[:, None, None]
        scores = _capped(jnp.einsum("bkqh,bksh->bkqs", rows, keys, preferred_element_type=jnp.float32), softcap)
        scores = jnp.where(mask, scores.reshape(B, K, G, stop - start, stop - first), _NEVER)
        # Every token attends to itself, so the peak belongs to a visible key and masked keys get exactly 0. A constant
        # that is subtracted from all scores does not change a softmax, so the peak needs no gradient.
        exp = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
        total = jnp.sum(exp, axis=-1, keepdims=True)
        out = jnp.einsum(
            "bkqs,bksh->bkqh", exp.reshape(B, K, G * (stop - start), stop - first).astype(values.dtype), values,
            preferred_element_type=jnp.float32,
        )
        outs.append((out.reshape(B, K, G, stop - start, H) / total).astype(q.dtype))
    return jnp.concatenate(outs, axis=3).transpose(0, 3, 1, 2, 4)


def behind_prefix(
    q_BxCxLxKxGxH: jax.Array, prefix: tuple[jax.Array, jax.Array], prefix_lengths_B: jax.Array,
    own: tuple[jax.Array, jax.Array], positions_BxCxL: jax.Array, distance_BxCxLxS: jax.Array, window: int | None,
    softcap: float = 0.0, *, one_by_one: bool = False,
) -> jax.Array:
    """C candidates of a document attend to its prefix and to their own keys; B x C x L x K x G x H.

    Args:
        q_BxCxLxKxGxH: scaled queries.
        prefix: keys and values of the prefix, B x K x P x H, shared by all candidates.
        prefix_lengths_B: number of valid prefix slots.
        own: each candidate's own keys and values, B x K x C x S x H.
        positions_BxCxL: positions of the queries.
        distance_BxCxLxS: distance from a query back to each own key (0: the token itself); negative: masked.
        window, softcap: see `causal`.
        one_by_one: if there are many scores, loop over documents and key heads, so that scores fit a CPU's cache.
    """
    _, C, L, _, G, _ = q_BxCxLxKxGxH.shape
    keys = prefix[0].shape[2] + own[0].shape[3]
    looped = one_by_one and L > 1 and C * G * L * keys >= _WORTH_A_LOOP  # L = 1 is decoding, where a loop is slower
    map_rows = jax.lax.map if looped else _vmap
    q_BxKxCxGxLxH = q_BxCxLxKxGxH.transpose(0, 3, 1, 4, 2, 5)

    def attend_document(rows: tuple) -> jax.Array:
        heads, length, positions_CxL, distance_CxLxS = rows
        slots = jnp.arange(prefix[0].shape[2])
        sees_prefix, sees_own = (slots < length)[None, None], distance_CxLxS >= 0
        if window is not None:
            sees_prefix = sees_prefix & (positions_CxL[..., None] - slots < window)
            sees_own = sees_own & (distance_CxLxS < window)

        def attend_head(head: tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return _attend_key_head(*head, sees_prefix[:, None], sees_own[:, None], softcap)

        return map_rows(attend_head, heads)

    heads_of_documents = (q_BxKxCxGxLxH, *prefix, *own)
    out = map_rows(attend_document, (heads_of_documents, prefix_lengths_B, positions_BxCxL, distance_BxCxLxS))
    return out.transpose(0, 2, 4, 1, 3, 5)


def _capped(scores: jax.Array, softcap: float) -> jax.Array:
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _vmap(function: Callable[[Any], jax.Array], rows: Any) -> jax.Array:
    """jax.vmap with the signature of jax.lax.map."""
    return jax.vmap(function)(rows)


def _attend_key_head(
    q_CxGxLxH: jax.Array, prefix_k_PxH: jax.Array, prefix_v_PxH: jax.Array, own_k_CxSxH: jax.Array,
    own_v_CxSxH: jax.Array, sees_prefix: jax.Array, sees_own: jax.Array, softcap: float,
) -> jax.Array:
    """Attention of the G heads that share a key head; C x G x L x H.

    Prefix and own keys share one softmax: one peak, one normaliser, and the sum of both weighted values.

    Args:
        sees_prefix, sees_own: masks that broadcast to C x G x L x P and C x G x L x S.
        softcap: see `causal`.
    """
    C, G, L, H = q_CxGxLxH.shape
    matmul = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = _capped(matmul("qh,ph->qp", q_CxGxLxH.reshape(C * G * L, H), prefix_k_PxH), softcap)
    scores = jnp.where(sees_prefix, scores.reshape(C, G, L, -1), _NEVER)
    own_scores = _capped(matmul("cqh,csh->cqs", q_CxGxLxH.reshape(C, G * L, H), own_k_CxSxH), softcap)
    own_scores = jnp.where(sees_own, own_scores.reshape(C, G, L, -1), _NEVER)

    # A token always attends to itself, so the peak belongs to a visible key and masked keys get exactly 0.
    peak = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.max(own_scores, axis=-1, keepdims=True))
    exp, own_exp = jnp.exp(scores - peak), jnp.exp(own_scores - peak)
    total = jnp.sum(exp, axis=-1, keepdims=True) + jnp.sum(own_exp, axis=-1, keepdims=True)
    out = matmul("qp,ph->qh", exp.reshape(C * G * L, -1).astype(prefix_v_PxH.dtype), prefix_v_PxH)
    own_out = matmul("cqs,csh->cqh", own_exp.reshape(C, G * L, -1).astype(own_v_CxSxH.dtype), own_v_CxSxH)
    return ((out.reshape(C, G, L, H) + own_out.reshape(C, G, L, H)) / total).astype(q_CxGxLxH.dtype)
