"""Attention proper: queries, keys and values in, values out. Softmax in float32, scores scaled by the caller.

Two cases. `causal`: independent rows, as in training and prefill. `behind_prefix`: candidates that share their
document's prefix, as in decoding and scoring; the prefix part is one matmul for all candidates of a document.
"""

import functools

import jax
import jax.numpy as jnp

from ilf_jax.models import kernels
from ilf_jax.models.compute import ComputeOptions

# Queries that are worked on together: a block sees only the keys up to its end, which spares up to half of the scores,
# and what it needs stays in a CPU's cache. Blocks make programs large, which XLA's CPU backend takes the square of to
# load: up to a length, three blocks spare a third of the scores, and then blocks are kept from growing.
_BLOCK, _BLOCKS, _LARGEST = 128, 3, 512
_NEVER = -1e30
# Where a key head of one document has so many scores (1 MiB in float32), a loop costs less than it spares.
_WORTH_A_LOOP = 1 << 18


def causal(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, compute: ComputeOptions,
) -> jax.Array:
    """Each token attends to itself and what stands before it in its own segment; B x L x K x G x H.

    Args:
        q_BxLxKxGxH: scaled queries, G heads for each of K key heads.
        segments_BxL: tokens see only their own segment; None: a row is one.
        window: how many tokens back, itself included, a token sees; None: all.
    """
    rows = q_BxLxKxGxH, k_BxKxLxH, v_BxKxLxH, segments_BxL, window
    if compute.attention == "cudnn":
        return kernels.flash(*rows)
    if compute.attention == "splash" and kernels.splash_fits(q_BxLxKxGxH.shape, compute.mesh):
        return kernels.splash(*rows, compute.mesh)
    return blockwise(*rows)


def blockwise(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None,
) -> jax.Array:
    """`causal` in plain XLA, some queries at a time."""
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
        scores = jnp.einsum("bkqh,bksh->bkqs", rows, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(mask, scores.reshape(B, K, G, stop - start, stop - first), _NEVER)
        # Every token sees itself, so the peak is that of a visible key and hidden ones come out as exactly 0. A softmax
        # does not depend on what is taken off its scores: no gradient need pass through the peak.
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
    *, one_by_one: bool = False,
) -> jax.Array:
    """C candidates of a document attend to its prefix and to keys of their own; B x C x L x K x G x H.

    Args:
        q_BxCxLxKxGxH: scaled queries.
        prefix: keys and values of the prefix, B x K x P x H, held once for all candidates.
        own: each candidate's own keys and values, B x K x C x S x H.
        positions_BxCxL: of the queries.
        distance_BxCxLxS: how far back each own key stands (0: the token itself); below 0: not seen.
        window: see `causal`.
        one_by_one: where there are many scores, one document and key head after another: a CPU's cache holds them then.
    """
    _, C, L, _, G, _ = q_BxCxLxKxGxH.shape
    keys = prefix[0].shape[2] + own[0].shape[3]
    looped = one_by_one and L > 1 and C * G * L * keys >= _WORTH_A_LOOP  # L = 1: decoding, where it has not paid
    over = jax.lax.map if looped else lambda of_one, rows: jax.vmap(of_one)(rows)
    q_BxKxCxGxLxH = q_BxCxLxKxGxH.transpose(0, 3, 1, 4, 2, 5)

    def of_document(rows: tuple) -> jax.Array:
        heads, length, positions_CxL, distance_CxLxS = rows
        slots = jnp.arange(prefix[0].shape[2])
        sees_prefix, sees_own = (slots < length)[None, None], distance_CxLxS >= 0
        if window is not None:
            sees_prefix = sees_prefix & (positions_CxL[..., None] - slots < window)
            sees_own = sees_own & (distance_CxLxS < window)
        return over(lambda head: _of_key_head(*head, sees_prefix[:, None], sees_own[:, None]), heads)

    out = over(of_document, ((q_BxKxCxGxLxH, *prefix, *own), prefix_lengths_B, positions_BxCxL, distance_BxCxLxS))
    return out.transpose(0, 2, 4, 1, 3, 5)


def _of_key_head(
    q_CxGxLxH: jax.Array, prefix_k_PxH: jax.Array, prefix_v_PxH: jax.Array, own_k_CxSxH: jax.Array,
    own_v_CxSxH: jax.Array, sees_prefix: jax.Array, sees_own: jax.Array,
) -> jax.Array:
    """The G heads that share a key head; C x G x L x H.

    The two parts share one softmax: scores of both stand below one peak, and what they weigh is summed.

    Args:
        sees_prefix, sees_own: masks that broadcast to C x G x L x P and C x G x L x S.
    """
    C, G, L, H = q_CxGxLxH.shape
    matmul = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = matmul("qh,ph->qp", q_CxGxLxH.reshape(C * G * L, H), prefix_k_PxH)
    scores = jnp.where(sees_prefix, scores.reshape(C, G, L, -1), _NEVER)
    own_scores = matmul("cqh,csh->cqs", q_CxGxLxH.reshape(C, G * L, H), own_k_CxSxH)
    own_scores = jnp.where(sees_own, own_scores.reshape(C, G, L, -1), _NEVER)

    # A token always sees itself: the peak is that of a visible key, and hidden ones come out as exactly 0.
    peak = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.max(own_scores, axis=-1, keepdims=True))
    exp, own_exp = jnp.exp(scores - peak), jnp.exp(own_scores - peak)
    total = jnp.sum(exp, axis=-1, keepdims=True) + jnp.sum(own_exp, axis=-1, keepdims=True)
    out = matmul("qp,ph->qh", exp.reshape(C * G * L, -1).astype(prefix_v_PxH.dtype), prefix_v_PxH)
    own_out = matmul("cqs,csh->cqh", own_exp.reshape(C, G * L, -1).astype(own_v_CxSxH.dtype), own_v_CxSxH)
    return ((out.reshape(C, G, L, H) + own_out.reshape(C, G, L, H)) / total).astype(q_CxGxLxH.dtype)
