"""The device mesh: splits batches over it, jits steps for it. Knows arrays and shardings, never a model."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ilf_jax.errors import InputError
from ilf_jax.runtime import hardware

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh; an axis of -1 (at most one) takes the devices that the others leave.

    Neighbours on `tensor` are neighbours in the network, if that has a topology. Between slices, which a slower network
    connects, only `data` is split.

    Args:
        devices: all devices if None.

    Raises:
        InputError: the axes do not multiply to the number of devices, or `data` is not a multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    given = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and given > 0:
        sizes[sizes.index(-1)] = len(devices) // given
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise InputError(f"config.mesh: data={data}, fsdp={fsdp}, tensor={tensor} do not multiply to the "
                         f"{len(devices)} devices of this run; one of them may be -1, to take what the others leave")
    return Mesh(_arranged(sizes, devices), AXES)


def _arranged(sizes: list[int], devices: Sequence[jax.Device]) -> np.ndarray:
    # GPUs have such an index, too, one a machine, which does not stand for a slow network.
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"} or {0})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise InputError(f"config.mesh.data={sizes[0]} is not a multiple of the {slices} slices; between slices, which "
                         "a slow network connects, only data can be split")
    within = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path as 'layers_0/attention/q/kernel'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


@functools.cache
def jitted(step: Callable[..., Any], out: NamedSharding, options: tuple[tuple[str, Any], ...]) -> jax.stages.Wrapped:
    """`step` jitted, its results in the sharding `out`; `options` are further arguments of jax.jit, as sorted pairs."""
    on_cpu = out.mesh.devices.flat[0].platform == "cpu"
    return jax.jit(step, compiler_options=hardware.KEPT_BARRIERS if on_cpu else None,
                   **{"out_shardings": out, **dict(options)})


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along `axis` over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), ("data", "fsdp")))


def from_host(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array as a global array: every process has the whole, and puts its parts on its own devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def move(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array, or a value that is the same on every process, in a sharding."""
    if isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == sharding:
        return leaf  # as device_put would, but ten times faster
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable and not sharding.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    return from_host(np.asarray(leaf), sharding)  # computed on each process, with the same values
