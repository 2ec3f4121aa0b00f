"""From a run's seed to a key: which seeds there are, and that no two of them share one."""

import jax
import jax.numpy as jnp

LARGEST = 2**64 - 1
"""A key has 64 bits, so there are as many seeds."""


def key(seed: int) -> jax.Array:
    """The typed PRNG key of a seed.

    Below 2^32 it is that of `jax.random.key`, which drops what stands above the lowest 32 bits of larger seeds.

    Args:
        seed: 0 to `LARGEST`.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 <= seed <= LARGEST:
        raise ValueError(f"seed {seed} is not between 0 and {LARGEST}")
    words = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
