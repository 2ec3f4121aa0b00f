"""Layers that are alike as one stack: a param of all of them is one array, whose first axis runs over the layers.

A scan over a stack is one compiled layer, however deep the model; written out one after another, layers take a
compiler as often as long. A scan reads its layers out of stacks, and stacks made inside a program would be a second
copy of all params. So params lie in memory as they are computed, stacked or one by one, and `transformer` computes what
it is given. On the disk they are always one by one.

Models whose layers differ, by windows or by rotary positions, repeat a period of P layers: there are P stacks, and one
step of the scan is P layers. Layers behind the last whole period stay by themselves.

A last layer by itself computes no more than the hidden states that are wanted. In a stack it computes all of them: in
Llama 8B one MLP of 32, which matters less than a program with twice as many layers to compile.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ilf_jax.models.architecture import ModelConfig

_STACK = re.compile(r"(^|/)layers_(\d+)_to_(\d+)_by_(\d+)(?=/|$)")
# Fewer repetitions are no stack.
_FEWEST = 2


@functools.cache
def stacks(config: ModelConfig) -> dict[str, range]:
    """The stacks of a model, by name, and the layers of each; none where no period repeats.

    The i-th stack holds the i-th layer of each period. Of several ways to stack it is the one with the fewest layers to
    compile; a last layer that differs from all others is no reason to stack none.
    """
    count = config.num_layers
    kinds = [(config.is_sliding(i), config.is_rotated(i)) for i in range(count)]
    fewest, best = count, (0, 0)
    for period in range(1, count // _FEWEST + 1):
        for end in (count // period * period, (count - 1) // period * period):
            compiled = period + count - end
            if end >= _FEWEST * period and compiled < fewest and all(kinds[i] == kinds[i % period] for i in range(end)):
                fewest, best = compiled, (period, end)
    period, end = best
    return {f"layers_{i}_to_{end - period + i}_by_{period}": range(i, end, period) for i in range(period)}


def compiled_layers(config: ModelConfig) -> int:
    """How many layers a program with stacks has: one of each stack, and those by themselves."""
    return len(stacks(config)) + config.num_layers - sum(map(len, stacks(config).values()))


def is_stacked(path: str) -> bool:
    """Whether a param's path, such as 'layers_0_to_30_by_1/attention/q/kernel', leads into a stack."""
    return _STACK.search(path) is not None


def paths(path: str) -> list[str]:
    """The paths that a param has one by one: those of all layers of its stack, or just its own."""
    match = _STACK.search(path)
    if match is None:
        return [path]
    first, last, step = map(int, match.groups()[1:])
    return [_STACK.sub(rf"\g<1>layers_{i}", path) for i in range(first, last + 1, step)]


def stacked(config: ModelConfig, params: Mapping[str, Any], shardings: Callable[[str], Any] | None = None) -> dict:
    """Params one by one -> params in stacks, one param after another, so that no second copy of all exists.

    Args:
        config: of the model.
        params: arrays, or jax.ShapeDtypeStruct; other references to them keep their memory.
        shardings: of a param, by its path in the stack; where the compiler puts it if None.
    """
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    del params
    for name, layers in stacks(config).items():
        of_first = f"layers_{layers[0]}/"
        for inner in [path.removeprefix(of_first) for path in flat if path.startswith(of_first)]:
            leaves, path = [flat.pop(f"layers_{i}/{inner}") for i in layers], f"{name}/{inner}"
            flat[path] = _join(leaves, None if shardings is None else shardings(path))
            del leaves
    return traverse_util.unflatten_dict(flat, sep="/")


def _join(leaves: Sequence[Any], sharding: Any) -> Any:
    if isinstance(leaves[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype, sharding=sharding)
    return _jitted_join(sharding)(*leaves)


@functools.cache
def _jitted_join(sharding: Any) -> jax.stages.Wrapped:
    return jax.jit(lambda *leaves: jnp.stack(leaves), out_shardings=sharding)


def one_by_one(params: Mapping[str, Any]) -> dict:
    """Params in stacks -> params one by one: views of numpy arrays, copies of those of jax."""
    flat: dict[str, Any] = {}
    for path, leaf in traverse_util.flatten_dict(dict(params), sep="/").items():
        if is_stacked(path):
            flat |= zip(paths(path), leaf if isinstance(leaf, np.ndarray) else _split(leaf), strict=True)
        else:
            flat[path] = leaf
    return traverse_util.unflatten_dict(flat, sep="/")


@jax.jit
def _split(leaf: jax.Array) -> list[jax.Array]:
    return list(leaf)
