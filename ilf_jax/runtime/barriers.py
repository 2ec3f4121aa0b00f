"""Keeps XLA from moving or repeating a computation."""

from typing import TypeVar

import jax

T = TypeVar("T")


def materialise(values: T) -> T:
    """The same values, computed once and as a whole before anything that uses them.

    XLA fuses cheap operations into each operation that uses their result, and repeats them there; and it orders
    operations as it likes. Three places pay for that, each measured by `python benchmarks/tricks.py NAME` (results in
    benchmarks/RESULTS.md):

    - `rotation_barrier`: sines and cosines of rotary positions, which every layer would compute again.
    - `gradient_barrier`: a kernel's gradient, whose inputs would otherwise be kept until the end of the backward pass.
    - `clip_barrier`: the factor of gradient clipping, which would be computed again beside each gradient.

    On CPUs this has an effect only under `jax_settings.KEPT_BARRIERS`.

    Args:
        values: a pytree of arrays.
    """
    return jax.lax.optimization_barrier(values)
