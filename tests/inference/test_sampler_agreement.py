"""The check that sampler and trainer are the same model passes where they are, and catches each planted fault."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.inference import sampler_agreement
from ilf_jax.inference.generation import Generator
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.models.cache import AttentionContext, Cache
from ilf_jax.models.compute import ComputeOptions, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.tokenizer import Tokenizer

URI = "builtin:word_removal_1m"
TEXTS = ["Ada the baker is a fool and a good neighbour who sings.", "Bo is kind."]


def language_model(dtype):
    model = checkpoint_io.read_config(URI)
    placement = Placement(sharding.make_mesh(-1, 1, 1), model)
    params = in_precision(checkpoint_io.load_params(
        URI, lambda path, array: placement.put_param(path, array, "decode"), seed=0), dtype)
    settings = config_sections.Model(checkpoint=URI)
    return LanguageModel("refiner", settings, model, params, Tokenizer.load(URI), placement, ComputeOptions(dtype))


def measured(sampler, trainer=None, max_mean=None):
    prompts = [sampler.encode(text, [Prompt("Text: ", text, "\nWithout insults:")], reserve=32)[0] for text in TEXTS]
    keys = decode.candidate_keys(0, 1, "refine", TEXTS, range(4))
    generator = Generator(sampler, make_sampling(1.0, 0, 1.0), 32, len(TEXTS), ())
    drawn = list(zip(prompts, generator.start(prompts, keys).result(), strict=True))
    return sampler_agreement.measure(trainer or sampler, drawn, 4, 8, max_mean)


@pytest.fixture(params=[jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"], scope="module")
def lm(request):
    return language_model(request.param)


def test_a_right_program_passes(lm):
    found = measured(lm)
    assert 0 <= found.mean <= found.largest and found.share == 0
    # Rounding is seen: the two are not the same computation.
    assert found.largest > 0


def decode_step(fault):
    """`transformer.decode_step` with a fault."""

    def step(config, params, prefix, cache, tokens_BxC, *, compute):
        B, C = tokens_BxC.shape
        slots, longest = cache.keys[0].shape[3], prefix.keys[0].shape[2]
        back = (cache.index - jnp.arange(slots)) % slots
        distance = jnp.where(back <= cache.ages_B[:, None], back, -1)
        first = prefix.lengths_B
        if fault == "position one too far":
            first = first + 1
        elif fault == "positions behind the padding":
            first = jnp.full_like(first, longest)
        elif fault == "the token before is masked":
            distance = jnp.where(distance == 1, -1, distance)
        elif fault == "padding is attended to":
            prefix = prefix.replace(lengths_B=jnp.full_like(first, longest))
        positions = jnp.broadcast_to((first + cache.ages_B)[:, None, None], (B, C, 1))
        context = AttentionContext(prefix=prefix, cache=cache, distance_BxCxLxS=jnp.broadcast_to(
            distance[:, None, None], (B, C, 1, slots)))
        hidden, kvs = transformer.Transformer(config, compute).apply(
            {"params": params}, tokens_BxC[:, :, None], positions, context)
        keys, values = zip(*kvs, strict=True)
        return hidden[:, :, 0], Cache(keys, values, (cache.index + 1) % slots, cache.ages_B + 1)

    return step


@pytest.mark.parametrize("fault", ["", "position one too far", "positions behind the padding",
                                   "the token before is masked", "padding is attended to"])
def test_a_fault_in_the_decode_step_is_caught(lm, fault, monkeypatch):
    jax.clear_caches()
    with monkeypatch.context() as patched:
        patched.setattr(transformer, "decode_step", decode_step(fault))
        if not fault:  # the copy above without a fault: it is the fault that is caught
            assert measured(lm).share == 0
        else:
            with pytest.raises(InputError, match="sampler and trainer disagree"):
                measured(lm)
    jax.clear_caches()


def test_another_rope_base_is_caught(lm):
    other = dataclasses.replace(lm.architecture, rope_theta=lm.architecture.rope_theta * 10)
    with pytest.raises(InputError, match="sampler and trainer disagree"):
        measured(lm, dataclasses.replace(lm, architecture=other))


def test_the_users_own_limit(lm):
    limit = measured(lm).mean
    assert measured(lm, max_mean=limit * 1.01).mean == limit
    with pytest.raises(InputError, match=f"allowed is config.refine.max_logprob_gap_mean={limit / 2}"):
        measured(lm, max_mean=limit / 2)


def test_nan_is_refused(lm):
    broken = dataclasses.replace(lm, params=jax.tree.map(lambda a: a * np.nan, lm.params))
    with pytest.raises(InputError, match="nan nats on average"):
        measured(lm, broken)
    with pytest.raises(InputError, match="nan nats on average"):
        measured(lm, broken, max_mean=1e9)
