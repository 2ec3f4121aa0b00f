"""Digests of arrays: what a checkpoint gives back is what was put into it.

tensorstore can write a CRC-32C behind every chunk, but Orbax hands no codec on to it, and checks none of the data. So
an array's digest is taken where the array is, before it is written and after it is read: no file is read for it, and no
process needs more than its own part of an array.

The digest of an array is the sum, modulo 2^32, of its elements' bits, each times an odd weight that depends on its
place. A change of one element always changes it, and it does not depend on how the array lies on devices.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.runtime import performance

Digests = Mapping[str, Mapping[str, int]]
"""dtype -> path of an array in its tree -> digest."""
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_BLOCK = 1 << 16  # elements that are converted at a time, so that they stay in a CPU's cache


def of_tree(tree: Any, *, rounded: bool = False) -> dict[str, dict[str, int]]:
    """The digests of a tree of numpy and jax arrays, of up to 4 bytes an element.

    Args:
        tree: all processes give the same, each its part.
        rounded: adds those of float32 arrays rounded to bfloat16, in which they may be read.
    """
    leaves = _by_path(tree)
    found: dict[str, dict[str, int]] = {}
    for name, value in _digests(leaves, False).items():
        found.setdefault(str(leaves[name].dtype), {})[name] = value
    if rounded:
        single = {name: leaf for name, leaf in leaves.items() if leaf.dtype == np.float32}
        found.setdefault("bfloat16", {}).update(_digests(single, True))
    return found


def first_changed(tree: Any, expected: Digests) -> str | None:
    """Path of the first array that is not what it was; None if all are, or none is known in the dtypes of `tree`."""
    leaves = {name: leaf for name, leaf in _by_path(tree).items() if str(leaf.dtype) in expected}
    digests = _digests(leaves, False)
    return next((n for n, value in digests.items() if expected[str(leaves[n].dtype)].get(n) != value), None)


def _by_path(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _digests(leaves: Mapping[str, Any], rounded: bool) -> dict[str, int]:
    """In one program on the devices; of what one CPU holds, without a program to compile."""
    here = {name: leaf for name, leaf in leaves.items() if _is_on_one_cpu(leaf)}
    elsewhere = {name: leaf for name, leaf in leaves.items() if name not in here}
    digests = {name: _on_host(np.asarray(leaf), rounded) for name, leaf in here.items()}
    if elsewhere:
        digests |= {n: int(value) for n, value in performance.fetch(_on_devices(elsewhere, rounded=rounded)).items()}
    return {name: digests[name] for name in leaves}


def _is_on_one_cpu(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    devices: set[Any] = leaf.sharding.device_set
    return leaf.is_fully_addressable and [device.platform for device in devices] == ["cpu"]


def _weights(count: int, axis: int, module: Any) -> Any:
    """Odd numbers without a pattern, for the places along an axis; the same of numpy and of jax.numpy."""
    w = (module.arange(count, dtype=np.uint32) + np.uint32(7919 * (axis + 1))) * np.uint32(0x9E3779B1)
    w = (w ^ (w >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return (w ^ (w >> np.uint32(13))) | np.uint32(1)


def _to_bfloat16(words: Any) -> Any:
    """Bits of finite float32 numbers -> those of the nearest bfloat16, in integers: devices may flush small numbers."""
    return (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


def _on_host(array: np.ndarray, rounded: bool) -> int:
    if not array.size:
        return 0
    shape = array.shape or (1,)
    rows = np.ascontiguousarray(array).reshape(-1, shape[-1])
    rows = rows.view(_UNSIGNED[array.dtype.itemsize])
    weights = _weights(shape[-1], len(shape) - 1, np)
    sums = np.empty(len(rows), np.uint32)
    step = max(1, _BLOCK // shape[-1]) if rounded or rows.dtype != np.uint32 else len(rows)
    for start in range(0, len(rows), step):
        words = rows[start : start + step].astype(np.uint32, copy=False)
        np.einsum("ij,j->i", _to_bfloat16(words) if rounded else words, weights, out=sums[start : start + step])
    for axis in reversed(range(len(shape) - 1)):
        sums = np.einsum("ij,j->i", sums.reshape(-1, shape[axis]), _weights(shape[axis], axis, np))
    return int(sums[0])


@functools.partial(jax.jit, static_argnames="rounded")
def _on_devices(leaves: dict[str, jax.Array], *, rounded: bool) -> dict[str, jax.Array]:
    def digest(leaf: jax.Array) -> jax.Array:
        leaf = jnp.atleast_1d(leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf)
        words = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)
        words = _to_bfloat16(words) if rounded else words
        for axis in reversed(range(words.ndim)):
            words = jnp.sum(words * _weights(words.shape[axis], axis, jnp), axis=-1, dtype=jnp.uint32)
        return words

    return {name: digest(leaf) for name, leaf in leaves.items()}
