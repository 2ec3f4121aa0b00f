"""The decode loop: C candidates a document behind one shared prefix, on the device from first token to last."""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ilf_jax.models import transformer
from ilf_jax.models.cache import Cache, Prefix, empty_cache
from ilf_jax.models.config import ModelConfig
from ilf_jax.sampling import logits as logits_lib


@struct.dataclass
class Generated:
    """What was sampled.

    Attributes:
        tokens_BxCxL: token ids, the end token included; 0 behind it.
        logprobs_BxCxL: log p of each under the model (temperature 1, unfiltered), in nats; 0 behind the end.
        mask_BxCxL: which tokens count.
        stopped_BxC: whether the row ended by an end token rather than at the limit.
    """

    tokens_BxCxL: jax.Array
    logprobs_BxCxL: jax.Array
    mask_BxCxL: jax.Array
    stopped_BxC: jax.Array


def candidate_keys(
    seed: int, iteration: int, purpose: str, ids: Sequence[str], candidates: Sequence[int]
) -> np.ndarray:
    """Raw PRNG keys, B x C x 2 (uint32), one for each (seed, iteration, purpose, example id, candidate).

    What a document is given depends on nothing else: not on its batch, its neighbours or its host. Drawn by BLAKE2
    rather than by chained fold_in, so that ids of any kind are spread evenly at no cost on the device.
    """
    keys = np.empty((len(ids), len(candidates), 2), np.uint32)
    for b, example_id in enumerate(ids):
        for c, candidate in enumerate(candidates):
            name = "\0".join((str(seed), str(iteration), purpose, example_id, str(candidate)))
            keys[b, c] = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint32)
    return keys


@struct.dataclass
class _State:
    step: jax.Array
    token_BxC: jax.Array
    done_BxC: jax.Array
    cache: Cache
    out: Generated


def decode(
    config: ModelConfig, params: transformer.Params, first_BxD: jax.Array, prefix: Prefix, keys_BxCx2: jax.Array,
    sampling: logits_lib.Sampling, ends_V: jax.Array, alive_B: jax.Array, *, max_new_tokens: int,
    dtype: jnp.dtype = jnp.float32,
) -> Generated:
    """Samples up to `max_new_tokens` tokens for each candidate; stops when every row has ended.

    Args:
        first_BxD: hidden state of the prompts' last tokens.
        ends_V: True at tokens after which a row ends (end of text, and tokens that hold a stop string).
        alive_B: False for rows that only fill up the batch.
    """
    B, C, _ = keys_BxCx2.shape
    keys = jax.random.wrap_key_data(keys_BxCx2.reshape(B * C, 2), impl="threefry2x32")

    def choose(hidden_BxCxD: jax.Array, state: _State) -> _State:
        logits = transformer.unembed(config, params, hidden_BxCxD.reshape(B * C, -1))
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, state.step)
        tokens = logits_lib.sample(logits, now, sampling)
        logprobs = logits_lib.token_logprobs(logits, tokens).reshape(B, C)
        tokens = tokens.reshape(B, C)
        counts = ~state.done_BxC
        ends = ends_V[tokens] & counts
        out = Generated(
            tokens_BxCxL=state.out.tokens_BxCxL.at[:, :, state.step].set(jnp.where(counts, tokens, 0)),
            logprobs_BxCxL=state.out.logprobs_BxCxL.at[:, :, state.step].set(jnp.where(counts, logprobs, 0.0)),
            mask_BxCxL=state.out.mask_BxCxL.at[:, :, state.step].set(counts),
            stopped_BxC=state.out.stopped_BxC | ends,
        )
        return _State(state.step + 1, tokens, state.done_BxC | ends, state.cache, out)

    def advance(state: _State) -> _State:
        hidden, cache = transformer.extend(
            config, params, prefix, state.token_BxC[:, :, None], state.cache, dtype=dtype
        )
        return choose(hidden[:, :, 0], state.replace(cache=cache))

    shape = (B, C, max_new_tokens)
    start = _State(
        step=jnp.zeros((), jnp.int32),
        token_BxC=jnp.zeros((B, C), jnp.int32),
        done_BxC=jnp.broadcast_to(~alive_B[:, None], (B, C)),
        cache=empty_cache(config, B, C, max_new_tokens, dtype),
        out=Generated(jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool), jnp.zeros((B, C), bool)),
    )
    first = jnp.broadcast_to(first_BxD[:, None], (B, C, first_BxD.shape[-1]))
    state = choose(first, start)
    unfinished = lambda s: (s.step < max_new_tokens) & ~jnp.all(s.done_BxC)  # noqa: E731
    return jax.lax.while_loop(unfinished, advance, state).out
