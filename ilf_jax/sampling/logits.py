"""Choosing a token from logits: temperature, top-k, top-p. Nothing here sorts."""

import jax
import jax.numpy as jnp
from flax import struct

_BLOCK = 256

# Round, token, weight below which nothing is drawn any more, and whether a row is done.
_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


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


def _largest_threshold(weights_RxV: jax.Array, count: jax.Array) -> jax.Array:
    """Per row the largest t such that at least `count` weights are t or more, exactly; weights lie in 0..1.

    Non-negative floats order like their bit patterns, so 31 halvings over the bits find it without a sort.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low + 1) // 2
        kept = weights_RxV >= jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None]
        enough = jnp.sum(kept, axis=-1) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    rows = weights_RxV.shape[0]
    highest = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    bounds = jnp.zeros(rows, jnp.int32), jnp.full(rows, highest, jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, halve, bounds)[0], jnp.float32)


def token_weights(logits_RxV: jax.Array, sampling: Sampling) -> jax.Array:
    """What tokens weigh after temperature and top-k, R x V: probabilities up to a factor, 1 at most.

    Temperature 0 counts as 1 here; `sample` is greedy then. Ties at the k-th place are all kept.
    """
    temperature = jnp.where(sampling.temperature == 0, 1.0, sampling.temperature)
    weights = jnp.exp((logits_RxV - jnp.max(logits_RxV, axis=-1, keepdims=True)) / temperature)

    def top_k(weights: jax.Array) -> jax.Array:
        return jnp.where(weights >= _largest_threshold(weights, sampling.top_k)[:, None], weights, 0.0)

    return jax.lax.cond(sampling.top_k > 0, top_k, lambda w: w, weights)


def in_nucleus(weights_RxV: jax.Array, token_weights_R: jax.Array, top_p: jax.Array) -> jax.Array:
    """Whether top-p keeps tokens of this weight: what weighs more does not reach the share top_p by itself.

    Ties at the edge are all kept.
    """
    heavier = jnp.sum(jnp.where(weights_RxV > token_weights_R[:, None], weights_RxV, 0.0), axis=-1)
    # At 1 all are kept; in float32 the tail's share may be lost in the sums. The condition is negated so that
    # NaN weights are kept too and `draw` ends; the NaN shows in the log-probabilities and is reported there.
    return ~(heavier >= top_p * jnp.sum(weights_RxV, axis=-1)) | ((top_p >= 1) & (token_weights_R > 0))


def inverse_cdf(weights_RxV: jax.Array, uniforms_R: jax.Array) -> jax.Array:
    """The token at which each row's cumulative share of the weight passes its uniform number in [0, 1).

    Two levels of cumulative sums (blocks, then inside one block) instead of one over the vocabulary.
    """
    R, V = weights_RxV.shape
    blocks = -(-V // _BLOCK)
    padded = jnp.pad(weights_RxV, ((0, 0), (0, blocks * _BLOCK - V))).reshape(R, blocks, _BLOCK)
    sums = jnp.sum(padded, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    goal = uniforms_R * ends[:, -1]
    block = _first_above(ends, goal, sums)
    before = jnp.take_along_axis(ends - sums, block[:, None], axis=1)[:, 0]
    inside = jnp.take_along_axis(padded, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _first_above(before[:, None] + jnp.cumsum(inside, axis=-1), goal, inside)


def _first_above(ends: jax.Array, goal: jax.Array, mass: jax.Array) -> jax.Array:
    """First index with mass whose end lies above the goal; the last one with mass if rounding leaves none."""
    passes = (ends > goal[:, None]) & (mass > 0)
    last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, axis=-1)
    return jnp.where(jnp.any(passes, axis=-1), jnp.argmax(passes, axis=-1), last).astype(jnp.int32)


def draw(weights_RxV: jax.Array, keys_R: jax.Array, top_p: jax.Array) -> jax.Array:
    """One token a row from the nucleus, in proportion to weight.

    A token is drawn from all and kept if it lies in the nucleus; if not, the next is drawn from those that weigh more
    than it did, of which the nucleus is part. What is kept is distributed exactly as in the nucleus alone, after some
    1 / top_p draws and never many: each refusal takes away a random share of what cannot be kept.
    """

    def refused(state: _State) -> jax.Array:
        return ~jnp.all(state[3])

    def again(state: _State) -> _State:
        round_, tokens, floor, kept = state
        uniforms = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, round_)))(keys_R)
        new = inverse_cdf(jnp.where(weights_RxV > floor[:, None], weights_RxV, 0.0), uniforms)
        weight = jnp.take_along_axis(weights_RxV, new[:, None], axis=-1)[:, 0]
        tokens, floor = jnp.where(kept, tokens, new), jnp.where(kept, floor, weight)
        return round_ + 1, tokens, floor, kept | in_nucleus(weights_RxV, weight, top_p)

    rows = weights_RxV.shape[0]
    start = (jnp.int32(0), jnp.zeros(rows, jnp.int32), jnp.zeros(rows), jnp.zeros(rows, bool))
    return jax.lax.while_loop(refused, again, start)[1]


def sample(logits_RxV: jax.Array, keys_R: jax.Array, sampling: Sampling) -> jax.Array:
    """One token a row, each from its own key; the most probable one if the temperature is 0."""

    def by_weight(_: None) -> jax.Array:
        return draw(token_weights(logits_RxV, sampling), keys_R, sampling.top_p)

    def greedy(_: None) -> jax.Array:
        return jnp.argmax(logits_RxV, axis=-1).astype(jnp.int32)

    return jax.lax.cond(sampling.temperature == 0, greedy, by_weight, None)


def token_logprobs(logits_RxV: jax.Array, tokens_R: jax.Array) -> jax.Array:
    """log p of the tokens under the model itself (no temperature, nothing filtered), in nats."""
    picked = jnp.take_along_axis(logits_RxV, tokens_R[:, None], axis=-1)[:, 0]
    return picked - jax.nn.logsumexp(logits_RxV, axis=-1)
