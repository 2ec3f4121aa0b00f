"""Attention proper: queries, keys and values in, values out. Softmax in float32, scores scaled by the caller.

Two cases. `causal`: independent rows, as in training and prefill. `behind_prefix`: candidates that share their
document's prefix, as in decoding and scoring; the prefix part is one matmul for all candidates of a document.
"""

import jax
import jax.numpy as jnp

from ilf_jax.models import kernels
from ilf_jax.models.compute import Compute

# Queries that are worked on together: a block sees only the keys up to its end, which spares up to half of the scores,
# and what it needs stays in a CPU's cache. Blocks make programs large, which XLA's CPU backend takes the square of to
# load: up to a length, three blocks spare a third of the scores, and then blocks are kept from growing.
_BLOCK, _BLOCKS, _LARGEST = 128, 3, 512
_NEVER = -1e30


def causal(
    q_BxLxKxGxH: jax.Array, k_BxKxLxH: jax.Array, v_BxKxLxH: jax.Array, segments_BxL: jax.Array | None,
    window: int | None, compute: Compute,
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
) -> jax.Array:
    """C candidates of a document attend to its prefix and to keys of their own; B x C x L x K x G x H.

    The two parts share one softmax: scores of both stand below one peak, and what they weigh is summed.

    Args:
        q_BxCxLxKxGxH: scaled queries.
        prefix: keys and values of the prefix, B x K x P x H, held once for all candidates.
        own: each candidate's own keys and values, B x K x C x S x H.
        positions_BxCxL: of the queries.
        distance_BxCxLxS: how far back each own key stands (0: the token itself); below 0: not seen.
        window: see `causal`.
    """
    B, C, L, K, G, H = q_BxCxLxKxGxH.shape
    (prefix_k, prefix_v), (own_k, own_v) = prefix, own
    P, S = prefix_k.shape[2], own_k.shape[3]
    q = q_BxCxLxKxGxH.transpose(0, 3, 1, 4, 2, 5)  # B K C G L H

    slots = jnp.arange(P)
    mask = (slots < prefix_lengths_B[:, None])[:, None, None, None, None]
    if window is not None:
        near = positions_BxCxL[..., None] - slots < window
        mask = mask & near[:, None, :, None]
    scores = jnp.einsum(
        "bkqh,bkph->bkqp", q.reshape(B, K, C * G * L, H), prefix_k, preferred_element_type=jnp.float32
    )
    scores = jnp.where(mask, scores.reshape(B, K, C, G, L, P), _NEVER)

    mask = distance_BxCxLxS >= 0
    if window is not None:
        mask = mask & (distance_BxCxLxS < window)
    own_scores = jnp.einsum("bkcqh,bkcsh->bkcqs", q.reshape(B, K, C, G * L, H), own_k,
                            preferred_element_type=jnp.float32)
    own_scores = jnp.where(mask[:, None, :, None], own_scores.reshape(B, K, C, G, L, S), _NEVER)

    # A token always sees itself: the peak is that of a visible key, and hidden ones come out as exactly 0.
    peak = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.max(own_scores, axis=-1, keepdims=True))
    exp, own_exp = jnp.exp(scores - peak), jnp.exp(own_scores - peak)
    total = jnp.sum(exp, axis=-1, keepdims=True) + jnp.sum(own_exp, axis=-1, keepdims=True)
    out = jnp.einsum("bkqp,bkph->bkqh", exp.reshape(B, K, C * G * L, P).astype(prefix_v.dtype), prefix_v,
                     preferred_element_type=jnp.float32).reshape(B, K, C, G, L, H)
    own_out = jnp.einsum("bkcqs,bkcsh->bkcqh", own_exp.reshape(B, K, C, G * L, S).astype(own_v.dtype), own_v,
                         preferred_element_type=jnp.float32).reshape(B, K, C, G, L, H)
    return ((out + own_out) / total).astype(q.dtype).transpose(0, 2, 4, 1, 3, 5)
