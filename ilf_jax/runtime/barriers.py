"""Keeps XLA from moving or repeating a computation."""

from typing import TypeVar

import jax

T = TypeVar("T")


def materialise(values: T) -> T:
    """The same values, computed once and as a whole before anything that uses them.

    Two places pay for it (benchmarks/RESULTS.md). On CPUs it takes `hardware.KEPT_BARRIERS`.

    - A kernel's gradient. Otherwise the scheduler of `hardware.train_step_on_cpu` may leave it to the end of the
      backward pass, and keep all that it is made of until then: 2,786 instead of 1,309 MB of temporaries for
      SmolLM2-135M.
    - Sines and cosines of rotary positions, which every layer would compute again: 8 % of refining with SmolLM2-135M.

    Args:
        values: a pytree of arrays.
    """
    return jax.lax.optimization_barrier(values)
