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
def _on_devices(values: jax.Array) -> jax.Array:
    return jnp.isfinite(jnp.sum(values * 0))  # 0 for what is finite; one pass over memory


def check_params(params: Any, where: str) -> None:
    """Raises InputError if a param (an array on devices, sharded in any way) has an element that is not finite."""
    outcomes = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        (device, *others) = leaf.sharding.device_set
        here = device.platform == "cpu" and not others  # numpy reads it where it is, and nothing is compiled
        outcomes.append((path, np.isfinite(np.asarray(leaf)).all() if here else _on_devices(leaf)))
    for path, finite in outcomes:
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{where}: param {name} has elements that are NaN or infinite; its training diverged")
