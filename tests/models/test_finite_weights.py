"""NaN and infinity in weights are found as they are read."""

import jax.numpy as jnp
import numpy as np
import pytest

from ilf_jax.errors import InputError
from ilf_jax.models import finite_weights

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensors(bad):
    values = np.full((3, 5), np.finfo(np.float32).max, np.float32)
    finite_weights.check_tensor(values, "a.weight", "m.gguf")
    values[2, 4] = bad
    with pytest.raises(InputError, match=r"m\.gguf: tensor a\.weight has 1 of 15 elements"):
        finite_weights.check_tensor(values, "a.weight", "m.gguf")


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_params(dtype):
    values = np.ones((8, 4), dtype)
    params = {"a": {"kernel": jnp.array(values)}, "b": jnp.ones(3)}
    finite_weights.check_params(params, "orbax:DIR")
    values[7, 3] = np.nan
    params["a"]["kernel"] = jnp.array(values)
    with pytest.raises(InputError, match="orbax:DIR: param a/kernel has"):
        finite_weights.check_params(params, "orbax:DIR")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_params_on_devices(bad):
    values = np.full((64, 64), np.finfo(np.float32).max)
    values[63, 63] = bad
    assert bool(finite_weights._on_devices(jnp.array(values))) == np.isfinite(bad)
