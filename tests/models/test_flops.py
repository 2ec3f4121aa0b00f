"""The formulas against what XLA counts in the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from ilf_jax.models import flops, transformer
from ilf_jax.models.architecture import SHAPES, small_shape

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("optimised")]

CONFIG = small_shape(128, 3, 512)


def counted(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def params():
    return transformer.param_shapes(CONFIG)


def test_forward(params):
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    found = counted(lambda p, t: transformer.forward(CONFIG, p, t), params, tokens)
    assert found == pytest.approx(flops.forward(CONFIG, tokens=512, seen=128, unembedded=0), rel=0.15)


def test_unembedding(params):
    hidden = jax.ShapeDtypeStruct((7, 128), jnp.float32)
    found = counted(lambda p, h: transformer.unembed(CONFIG, p, h), params, hidden)
    assert found == pytest.approx(flops.forward(CONFIG, tokens=0, seen=0, unembedded=7), rel=0.02)


def test_backwards_is_twice_forwards(params):
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    found = counted(jax.grad(lambda p, t: transformer.forward(CONFIG, p, t).sum()), params, tokens)
    assert found == pytest.approx(flops.training(CONFIG, tokens=512, seen=128, targets=0), rel=0.15)


def test_generation_is_its_parts():
    whole = flops.generation(CONFIG, prompts=2, candidates=3, prompt_tokens=10, new_tokens=4)
    prefill = flops.forward(CONFIG, tokens=20, seen=5, unembedded=2)
    assert whole == prefill + flops.forward(CONFIG, tokens=24, seen=12, unembedded=24)


@pytest.mark.parametrize(("name", "billions"), [("llama_8b", 8.03), ("llama_70b", 70.6), ("gpt3_175b", 175)])
def test_sizes_are_the_published_ones(name, billions):
    assert flops.num_params(SHAPES[name]) / 1e9 == pytest.approx(billions, rel=0.005)
