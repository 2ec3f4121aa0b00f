"""Keeps XLA from moving a computation."""

from typing import TypeVar

import jax

T = TypeVar("T")


def materialise(values: T) -> T:
    """The same values, computed as a whole before anything that uses them.

    A kernel's gradient is computed behind it. Otherwise the scheduler of `hardware.train_step_on_cpu` may leave it
    to the end of the backward pass, and keep all that it is made of until then: 2,786 instead of 1,309 MB of
    temporaries for SmolLM2-135M (benchmarks/RESULTS.md). On CPUs it takes `hardware.KEPT_BARRIERS`.

    Args:
        values: a pytree of arrays.
    """
    return jax.lax.optimization_barrier(values)
