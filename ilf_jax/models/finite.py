"""Weights are numbers: NaN and infinity in a checkpoint are found as it is read, by the tensor's name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.errors import InputError


def check_tensor(values: np.ndarray, name: str, where: str) -> None:
    """Raises InputError if an element is NaN or infinite, naming the tensor and the file."""
    finite = np.isfinite(values)
    if not finite.all():
        count = values.size - int(np.count_nonzero(finite))
        raise InputError(f"{where}: tensor {name} has {count} of {values.size} elements that are NaN, infinite or too "
                         "large for float32; the file is damaged, or its training diverged")


@jax.jit
def _all_finite(params: Any) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]


def check_params(params: Any, where: str) -> None:
    """Raises InputError if a param (an array on devices, sharded in any way) has an element that is not finite."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for path, finite in zip(paths, jax.device_get(_all_finite(params)), strict=True):
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{where}: param {name} has elements that are NaN or infinite; its training diverged")
