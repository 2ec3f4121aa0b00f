"""A checkpoint of ours with NaN in it is refused by the param's name as it is loaded."""

import jax
import jax.numpy as jnp
import pytest

from ilf_jax.errors import InputError
from ilf_jax.inference.model_pool import ModelPool
from ilf_jax.models import transformer
from ilf_jax.models.architecture import SHAPES, to_facts
from ilf_jax.runtime import checkpoint, sharding


def test_nan_in_an_orbax_checkpoint(tmp_path):
    config = SHAPES["tiny"]
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), transformer.param_shapes(config))
    params["embedding"] = jnp.full(params["embedding"].shape, jnp.nan)
    checkpoint.save_model(tmp_path, params, to_facts(config)).result()
    with pytest.raises(InputError, match="param embedding has elements that are NaN"):
        ModelPool(sharding.make_mesh(-1, 1, 1), seed=0).get(f"orbax:{tmp_path}")
