"""The decode loop: C candidates a document behind one shared prefix, on the device from first token to last."""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.cache import Cache, Prefix, empty_cache
from ilf_jax.models.compute import FLOAT32, ComputeOptions
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


@struct.dataclass
class Slots:
    """B documents under way. A slot whose document is finished can be given another one.

    Attributes:
        keys_BxCx2: raw PRNG keys, see `candidate_keys`.
        token_BxC: the latest token of each candidate.
        done_BxC: which candidates have ended.
    """

    prefix: Prefix
    cache: Cache
    keys_BxCx2: jax.Array
    token_BxC: jax.Array
    done_BxC: jax.Array
    out: Generated

    @property
    def finished(self) -> jax.Array:
        """Documents all of whose candidates have ended."""
        return jnp.all(self.done_BxC, axis=1)


def candidate_keys(
    seed: int, iteration: int, purpose: str, ids: Sequence[str], candidates: Sequence[int]
) -> np.ndarray:
    """Raw PRNG keys, B x C x 2 (uint32), one for each (seed, iteration, purpose, example id, candidate).

    What a document is given depends on nothing else: not on its batch, its neighbours or its host. Drawn by BLAKE2
    rather than by chained fold_in, so that ids of any kind are spread evenly at no cost on the device.

    Args:
        seed, iteration: of the run.
        purpose: the stage or metric that samples.
        ids: B example ids.
        candidates: C candidate numbers.
    """
    keys = np.empty((len(ids), len(candidates), 2), np.uint32)
    for b, example_id in enumerate(ids):
        for c, candidate in enumerate(candidates):
            name = "\0".join((str(seed), str(iteration), purpose, example_id, str(candidate)))
            keys[b, c] = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), np.uint32)
    return keys


def start(
    config: ModelConfig, params: transformer.Params, tokens_BxP: jax.Array, lengths_B: jax.Array,
    keys_BxCx2: jax.Array, sampling: logits_lib.Sampling, ends_V: jax.Array, *, max_new_tokens: int,
    compute: ComputeOptions = FLOAT32,
) -> Slots:
    """Prefills B prompts (right-padded; length 0: an empty slot) and draws the first token of each candidate.

    Args:
        config, params: of the model.
        tokens_BxP, lengths_B: the prompts.
        keys_BxCx2: see `candidate_keys`.
        sampling: how tokens are chosen.
        ends_V: 1 at tokens after which a row ends (end of text, and tokens that hold a stop string), -1 at tokens that
            are never drawn.
        max_new_tokens: of each candidate.
        compute: precision and kernels.
    """
    B, C, _ = keys_BxCx2.shape
    last_BxD, prefix = transformer.prefill(config, params, tokens_BxP, jnp.maximum(lengths_B, 1), compute=compute)
    shape = (B, C, max_new_tokens)
    slots = Slots(
        prefix=prefix, cache=empty_cache(prefix, C, max_new_tokens), keys_BxCx2=keys_BxCx2,
        token_BxC=jnp.zeros((B, C), jnp.int32), done_BxC=jnp.broadcast_to(lengths_B[:, None] == 0, (B, C)),
        out=Generated(jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool), jnp.zeros((B, C), bool)),
    )
    first_BxCxD = jnp.broadcast_to(last_BxD[:, None], (B, C, last_BxD.shape[-1]))
    return _choose(config, params, first_BxCxD, slots, sampling, ends_V)


def run(
    config: ModelConfig, params: transformer.Params, slots: Slots, sampling: logits_lib.Sampling, ends_V: jax.Array,
    until: jax.Array, *, of_candidates: bool = False, compute: ComputeOptions = FLOAT32,
) -> Slots:
    """Decodes token by token until at least `until` of the B documents are finished.

    Args:
        config, params: of the model.
        slots: where the documents stand.
        sampling: how tokens are chosen.
        ends_V: see `start`.
        until: a scalar; B waits for all.
        of_candidates: `until` counts the B x C candidates that have ended, not documents.
        compute: precision and kernels.
    """

    def unfinished(slots: Slots) -> jax.Array:
        return jnp.sum(slots.done_BxC if of_candidates else slots.finished) < until

    def advance(slots: Slots) -> Slots:
        hidden_BxCxD, cache = transformer.decode_step(
            config, params, slots.prefix, slots.cache, slots.token_BxC, compute=compute
        )
        return _choose(config, params, hidden_BxCxD, dataclasses.replace(slots, cache=cache), sampling, ends_V)

    return jax.lax.while_loop(unfinished, advance, slots)


def put(slots: Slots, new: Slots, at_R: jax.Array) -> Slots:
    """Puts R documents just started into the slots `at_R`, whose documents are finished; -1 drops the document.

    The new documents' own keys are all still to come, so what the ring holds in their rows need not be cleared.
    """
    at = jnp.where(at_R < 0, slots.token_BxC.shape[0], at_R)  # out of range: dropped

    def place(old: jax.Array, rows: jax.Array, axis: int = 0) -> jax.Array:
        return old.at[(slice(None),) * axis + (at,)].set(rows, mode="drop")

    def place_kv(old: jax.Array, rows: jax.Array) -> jax.Array:
        return place(old, rows, axis=old.ndim - 4)  # in a stack, layers come first

    return Slots(
        prefix=Prefix(keys=jax.tree.map(place_kv, slots.prefix.keys, new.prefix.keys),
                      values=jax.tree.map(place_kv, slots.prefix.values, new.prefix.values),
                      lengths_B=place(slots.prefix.lengths_B, new.prefix.lengths_B)),
        cache=dataclasses.replace(slots.cache, ages_B=place(slots.cache.ages_B, new.cache.ages_B)),
        keys_BxCx2=place(slots.keys_BxCx2, new.keys_BxCx2), token_BxC=place(slots.token_BxC, new.token_BxC),
        done_BxC=place(slots.done_BxC, new.done_BxC), out=jax.tree.map(place, slots.out, new.out),
    )


def _choose(
    config: ModelConfig, params: transformer.Params, hidden_BxCxD: jax.Array, slots: Slots,
    sampling: logits_lib.Sampling, ends_V: jax.Array,
) -> Slots:
    """Draws each candidate's next token from the hidden state of its last one."""
    B, C, D = hidden_BxCxD.shape
    limit = slots.out.tokens_BxCxL.shape[2]
    count_B = slots.cache.ages_B  # tokens a candidate has fed to the model: the number of the one chosen now
    logits = transformer.unembed(config, params, hidden_BxCxD.reshape(B * C, D))
    keys = jax.random.wrap_key_data(slots.keys_BxCx2.reshape(B * C, 2), impl="threefry2x32")
    now = jax.vmap(jax.random.fold_in)(keys, jnp.repeat(count_B, C))
    tokens = logits_lib.sample(jnp.where(ends_V < 0, -jnp.inf, logits), now, sampling)
    logprobs = logits_lib.token_logprobs(logits, tokens).reshape(B, C)
    tokens = tokens.reshape(B, C)

    live = ~slots.done_BxC
    here = live[..., None] & (jnp.arange(limit) == count_B[:, None, None])
    ends = (ends_V[tokens] > 0) & live
    out = Generated(
        tokens_BxCxL=jnp.where(here, tokens[..., None], slots.out.tokens_BxCxL),
        logprobs_BxCxL=jnp.where(here, logprobs[..., None], slots.out.logprobs_BxCxL),
        mask_BxCxL=slots.out.mask_BxCxL | here,
        stopped_BxC=slots.out.stopped_BxC | ends,
    )
    full = count_B[:, None] + 1 >= limit
    return dataclasses.replace(slots, token_BxC=tokens, done_BxC=slots.done_BxC | ends | full, out=out)
