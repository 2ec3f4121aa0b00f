"""Peak rates of a device, measured, and the FLOPs of a model, counted.

A forward pass over a text of T tokens, with W weights in matmuls, takes 2 W T + 2 T^2 x layers x width of all heads
FLOPs (causal attention: scores and weighted sums over half of T^2 pairs). Training takes three times that. The
unembedding takes 6 x vocabulary x width per predicted token in training.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ilf_jax.models import flops
from ilf_jax.models.architecture import ModelConfig


def fastest(work: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` calls, after one call that compiles."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def matmul_flops(size: int, dtype: jnp.dtype) -> float:
    """FLOP/s of a matmul of two `size` x `size` matrices, by the faster of the two forms that XLA is given.

    The inputs are random: equal numbers take less power, and a device that is less hot is faster. One form asks for
    float32 results and rounds them, the other leaves the results in the inputs' type.
    """
    a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0)))
    rounded = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(dtype))
    as_given = jax.jit(jnp.matmul)
    return 2 * size**3 / min(fastest(lambda: rounded(a, b)), fastest(lambda: as_given(a, b)))


def bandwidth(size_bytes: int) -> dict[str, float]:
    """Bytes/s of reading an array, and of STREAM's triad (two reads and one write, in place)."""
    count = size_bytes // 4
    a, b = (jax.random.normal(key, count) for key in jax.random.split(jax.random.key(0)))
    total = jax.jit(jnp.sum)
    triad = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)
    buffer = [jnp.ones(count)]

    def in_place() -> jax.Array:
        buffer[0] = triad(buffer[0], b)  # a fresh output each time would measure page faults
        return buffer[0]

    return {"read": size_bytes / fastest(lambda: total(a)), "triad": 3 * size_bytes / fastest(in_place)}


def forward_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """FLOPs of a forward pass over texts of these lengths, without the unembedding."""
    return sum(flops.forward(config, tokens=n, seen=n / 2, unembedded=0) for n in lengths)


def train_flops(config: ModelConfig, lengths: Sequence[int], targets: int) -> float:
    """FLOPs of one forward and backward pass that predicts `targets` tokens."""
    return 3 * (forward_flops(config, lengths) + flops.forward(config, tokens=0, seen=0, unembedded=targets))
