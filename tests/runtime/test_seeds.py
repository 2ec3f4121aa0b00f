"""Seeds: each of the allowed ones has a key of its own, and those that there were keep theirs."""

import jax
import numpy as np
import pytest

from ilf_jax import config
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io
from ilf_jax.models.architecture import SHAPES
from ilf_jax.runtime import seeds

pytestmark = pytest.mark.fast

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1, 2**63, 2**64 - 1]


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@pytest.mark.parametrize("seed", [s for s in EDGES if s < 2**32])
def test_keys_of_small_seeds_stay_as_they_were(seed):
    assert data(seeds.key(seed)) == data(jax.random.key(seed))


def test_no_two_seeds_share_a_key():
    assert len({data(seeds.key(seed)) for seed in EDGES}) == len(EDGES)
    assert len({data(jax.random.fold_in(seeds.key(seed), 1)) for seed in EDGES}) == len(EDGES)


def test_random_params_differ():
    first, second = (jax.tree.leaves(checkpoint_io.random_params(SHAPES["tiny"], seed)) for seed in (0, 2**32))
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_a_seed_out_of_range_is_refused_with_the_configuration(seed):
    with pytest.raises(InputError, match=r"config\.seed: -?\d+ is out of range; allowed: at least 0 and at most 18"):
        config.read({"seed": seed})
    with pytest.raises(ValueError, match="not between"):
        seeds.key(seed)


@pytest.mark.parametrize("seed", EDGES)
def test_an_allowed_seed_is_kept_as_it_is(seed):
    assert config.read({"seed": seed}).seed == seed
