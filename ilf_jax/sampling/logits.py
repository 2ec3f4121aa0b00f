"""Choosing a token from logits: temperature, top-k, top-p, one uniform number a row. Nothing here sorts."""

import jax
import jax.numpy as jnp
from flax import struct

_BLOCK = 256


@struct.dataclass
class Sampling:
    """How tokens are drawn. Scalars on the device, so that changing them compiles nothing.

    Attributes:
        temperature: 0 means greedy.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: then keep the smallest set of most probable tokens whose probabilities reach top_p; 1 keeps all.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def make_sampling(temperature: float, top_k: int, top_p: float) -> Sampling:
    """Sampling settings as device scalars."""
    return Sampling(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


def _largest_threshold(probs_RxV: jax.Array, keeps_enough: jax.Array) -> jax.Array:
    """Per row the largest t for which keeps_enough({p >= t}) holds, exactly.

    Non-negative floats order like their bit patterns, so 31 halvings over the bits find it without a sort. Tokens tied
    at t are all kept.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low + 1) // 2
        enough = keeps_enough(probs_RxV >= jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None])
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    rows = probs_RxV.shape[0]
    highest = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32) + 1
    bounds = jnp.zeros(rows, jnp.int32), jnp.full(rows, highest, jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, halve, bounds)[0], jnp.float32)


def _normalise(probs: jax.Array) -> jax.Array:
    return probs / jnp.sum(probs, axis=-1, keepdims=True)


def filtered_probs(logits_RxV: jax.Array, sampling: Sampling) -> jax.Array:
    """The distribution that tokens are drawn from, R x V: temperature, then top-k, then top-p.

    Temperature 0 counts as 1 here; `sample` is greedy then. Ties at a threshold are all kept.
    """
    temperature = jnp.where(sampling.temperature == 0, 1.0, sampling.temperature)
    probs = jax.nn.softmax(logits_RxV / temperature, axis=-1)

    def top_k(probs: jax.Array) -> jax.Array:
        threshold = _largest_threshold(probs, lambda kept: jnp.sum(kept, axis=-1) >= sampling.top_k)
        return _normalise(jnp.where(probs >= threshold[:, None], probs, 0.0))

    def top_p(probs: jax.Array) -> jax.Array:
        enough = lambda kept: jnp.sum(jnp.where(kept, probs, 0.0), axis=-1) >= sampling.top_p  # noqa: E731
        threshold = _largest_threshold(probs, enough)
        return _normalise(jnp.where(probs >= threshold[:, None], probs, 0.0))

    probs = jax.lax.cond(sampling.top_k > 0, top_k, lambda p: p, probs)
    return jax.lax.cond(sampling.top_p < 1, top_p, lambda p: p, probs)


def inverse_cdf(probs_RxV: jax.Array, uniforms_R: jax.Array) -> jax.Array:
    """The token at which each row's cumulative probability passes its uniform number in [0, 1).

    Two levels of cumulative sums (blocks, then inside one block) instead of one over the vocabulary.
    """
    R, V = probs_RxV.shape
    blocks = -(-V // _BLOCK)
    padded = jnp.pad(probs_RxV, ((0, 0), (0, blocks * _BLOCK - V))).reshape(R, blocks, _BLOCK)
    sums = jnp.sum(padded, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    goal = uniforms_R * ends[:, -1]  # rounding: the total may differ from 1 in the last bits
    block = _first_above(ends, goal, sums)
    before = jnp.take_along_axis(ends - sums, block[:, None], axis=1)[:, 0]
    inside = jnp.take_along_axis(padded, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _first_above(before[:, None] + jnp.cumsum(inside, axis=-1), goal, inside)


def _first_above(ends: jax.Array, goal: jax.Array, mass: jax.Array) -> jax.Array:
    """First index with mass whose end lies above the goal; the last one with mass if rounding leaves none."""
    passes = (ends > goal[:, None]) & (mass > 0)
    last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, axis=-1)
    return jnp.where(jnp.any(passes, axis=-1), jnp.argmax(passes, axis=-1), last).astype(jnp.int32)


def sample(logits_RxV: jax.Array, keys_R: jax.Array, sampling: Sampling) -> jax.Array:
    """One token a row, each from its own key; the most probable one if the temperature is 0."""

    def draw(_: None) -> jax.Array:
        uniforms = jax.vmap(jax.random.uniform)(keys_R)
        return inverse_cdf(filtered_probs(logits_RxV, sampling), uniforms)

    def greedy(_: None) -> jax.Array:
        return jnp.argmax(logits_RxV, axis=-1).astype(jnp.int32)

    return jax.lax.cond(sampling.temperature == 0, greedy, draw, None)


def token_logprobs(logits_RxV: jax.Array, tokens_R: jax.Array) -> jax.Array:
    """log p of the tokens under the model itself (no temperature, nothing filtered), in nats."""
    picked = jnp.take_along_axis(logits_RxV, tokens_R[:, None], axis=-1)[:, 0]
    return picked - jax.nn.logsumexp(logits_RxV, axis=-1)
