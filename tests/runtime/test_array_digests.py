"""Digests of arrays: every change is found, and where an array lies makes no difference."""

import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import several_devices
from hypothesis import given
from hypothesis import strategies as st

from ilf_jax.runtime import array_digests

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (130, 700), (0, 4)]
DTYPES = ["float32", "bfloat16", "int32", "uint8", "bool"]


def array(shape, dtype, seed=0):
    return np.asarray(jnp.asarray(np.random.default_rng(seed).integers(0, 200, shape), jnp.dtype(dtype)))


@pytest.mark.fast
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_on_the_host_and_in_a_program(shape, dtype):
    value = array(shape, dtype)
    (program,) = array_digests._on_devices({"a": jnp.asarray(value)}, rounded=False).values()
    assert array_digests.of_tree({"a": value}) == {dtype: {"a": int(program)}}


@pytest.mark.fast
def test_rounded_is_what_is_read_in_bfloat16():
    values = np.random.default_rng(0).standard_normal(1 << 17).astype(np.float32)
    values[:6] = [0.0, -0.0, 1e-40, 3.3e38, 1.00390625, 1.01171875]  # denormal, near overflow, two ties
    values = values.reshape(-1, 64)
    digests = array_digests.of_tree({"a": values}, rounded=True)
    assert array_digests.first_changed({"a": values.astype(jnp.bfloat16)}, digests) is None
    (program,) = array_digests._on_devices({"a": jnp.asarray(values)}, rounded=True).values()
    assert int(program) == digests["bfloat16"]["a"]
    other = values.astype(jnp.bfloat16)
    other[3, 3] *= 2
    assert array_digests.first_changed({"a": other}, digests) == "a"


@given(shape=st.sampled_from([s for s in SHAPES if 0 not in s]), dtype=st.sampled_from(DTYPES[:-1]), data=st.data())
def test_every_flipped_bit_is_found(shape, dtype, data):
    value = array(shape, dtype)
    digests = array_digests.of_tree({"x": {"y": value}})
    flipped = np.array(value)
    raw = flipped.reshape(-1).view(np.uint8)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert array_digests.first_changed({"x": {"y": flipped}}, digests) == "x/y"
    assert array_digests.first_changed({"x": {"y": value}}, digests) is None


@pytest.mark.parametrize("change", ["rows", "columns", "zeros", "shifted"])
def test_blocks_in_the_wrong_place(change):
    value = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    wrong = value.copy()
    if change == "rows":
        wrong[[3, 40]] = wrong[[40, 3]]
    elif change == "columns":
        wrong[:, [0, 128]] = wrong[:, [128, 0]]
    elif change == "zeros":
        wrong[16:32] = 0
    else:
        wrong = np.roll(wrong, 1)
    assert array_digests.first_changed([wrong], array_digests.of_tree([value])) == "0"


def test_an_array_that_nobody_noted():
    digests = array_digests.of_tree({"a": np.ones(3, np.float32)})
    assert array_digests.first_changed({"b": np.ones(3, np.float32)}, digests) == "b"
    assert array_digests.first_changed({"a": np.ones(3, np.float16)}, digests) is None


def test_sharded_is_not_sharded():
    """Over four devices, and with an array that lies on one of them."""
    env = several_devices(4)
    done = subprocess.run([sys.executable, "-c", SHARDED], env=env, capture_output=True, text=True,
                          cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


SHARDED = """
import jax, numpy as np
from ilf_jax.runtime import array_digests
value = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
mesh = jax.make_mesh((2, 2), ("x", "y"))
for spec in (jax.P("x"), jax.P("x", "y"), jax.P(None, "y"), jax.P()):
    placed = [jax.device_put(value, jax.NamedSharding(mesh, spec)), jax.device_put(value, jax.devices()[3])]
    assert array_digests.of_tree(placed, rounded=True) == array_digests.of_tree([value, value], rounded=True)
"""
