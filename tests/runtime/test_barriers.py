"""Barriers hold in programs of inference."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from ilf_jax.models import architecture, transformer
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding

MODEL = dataclasses.replace(
    architecture.SHAPES["llama_8b"], vocab_size=64, hidden_size=64, intermediate_size=64, num_heads=4, num_kv_heads=2,
    head_dim=16)


def cosines(layers):
    """How often the compiled prefill of a model so deep computes a cosine."""
    config = dataclasses.replace(MODEL, num_layers=layers)
    params, tokens = transformer.param_shapes(config), jax.ShapeDtypeStruct((2, 64), jnp.int32)
    prefill = Placement(sharding.make_mesh(-1, 1, 1), config).jit(transformer.prefill, static_argnums=(0,))
    lowered = prefill.lower(config, params, tokens, jax.ShapeDtypeStruct((2,), jnp.int32))
    return len(re.findall(r"\bcosine\(", lowered.compile().as_text()))


@pytest.mark.usefixtures("optimised")
def test_layers_share_sines_and_cosines():
    """XLA would fuse them into each layer."""
    assert cosines(2) == cosines(4) == 1
