"""The device mesh, and where params and batches lie on it.

Every param has logical axes; one table a layout maps those to mesh axes. Training shards params over `fsdp` as well;
decoding keeps them whole along that axis, so that no step gathers weights.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.runtime import jax_settings

AXES = ("data", "fsdp", "tensor")

# Param path -> logical axes, first match wins. Norm scales and other vectors not listed are held whole.
_LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|/)(embedding|unembedding)$", ("vocab", "embed")),
    (r"(^|/)positions$", (None, "embed")),
    (r"attention/q/kernel$", ("embed", "heads")),
    (r"attention/[kv]/kernel$", ("embed", "kv_heads")),
    (r"attention/o/kernel$", ("heads", "embed")),
    (r"mlp/(gate|up)/kernel$", ("embed", "mlp")),
    (r"mlp/down/kernel$", ("mlp", "embed")),
    # LoRA: A has the first axis of its kernel, B the last.
    (r"(attention/[qkv]|mlp/(gate|up))/lora_a$", ("embed", None)),
    (r"attention/o/lora_a$", ("heads", None)),
    (r"mlp/down/lora_a$", ("mlp", None)),
    (r"attention/q/lora_b$", (None, "heads")),
    (r"attention/[kv]/lora_b$", (None, "kv_heads")),
    (r"mlp/(gate|up)/lora_b$", (None, "mlp")),
    (r"(attention/o|mlp/down)/lora_b$", (None, "embed")),
    (r"attention/q/bias$", ("heads",)),
    (r"attention/[kv]/bias$", ("kv_heads",)),
    (r"mlp/(gate|up)/bias$", ("mlp",)),
)
_RULES: dict[str, dict[str, str | None]] = {
    "train": {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "embed": "fsdp"},
    "decode": {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "embed": None},
}


def make_mesh(data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh; an axis of -1 (one at most) takes what the others leave.

    Neighbours on `tensor` are neighbours in the network where that has a shape. Between slices, which a slower network
    connects, only `data` is split.

    Args:
        devices: all that there are if None.

    Raises:
        InputError: the axes do not multiply to the number of devices, or `data` is no multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    given = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and given > 0:
        sizes[sizes.index(-1)] = len(devices) // given
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise InputError(f"config.mesh: data={data}, fsdp={fsdp}, tensor={tensor} do not make the {len(devices)} "
                         "devices that there are; one of them may be -1, to take what the others leave")
    return Mesh(_arranged(sizes, devices), AXES)


def _arranged(sizes: list[int], devices: Sequence[jax.Device]) -> np.ndarray:
    # GPUs have such an index, too, one a machine; there it says nothing of a slow network.
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"} or {0})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise InputError(f"config.mesh.data={sizes[0]} is no multiple of the {slices} slices: between slices, which a "
                         "slow network connects, only data can be split")
    within = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path as 'layers_0/attention/q/kernel'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Puts arrays of one model where they belong on the mesh."""

    mesh: Mesh
    model: ModelConfig

    def __post_init__(self) -> None:
        tensor = self.mesh.shape["tensor"]
        sizes = {"query heads": self.model.num_heads, "MLP width": self.model.intermediate_size}
        for name, size in sizes.items():
            if size % tensor:
                fitting = [t for t in range(1, tensor + 1) if all(s % t == 0 for s in sizes.values())]
                raise InputError(f"config.mesh.tensor={tensor} does not divide the {name} ({size}); "
                                 f"these do: {', '.join(map(str, fitting))}")

    @property
    def batch_shards(self) -> int:
        """How many parts a batch is split into; batch sizes are multiples of it."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def padded(self, rows: int) -> int:
        """Rows a batch has on this mesh: each shard gets as many."""
        return -(-rows // self.batch_shards) * self.batch_shards

    def param_sharding(self, path: str, layout: str) -> NamedSharding:
        """Sharding of one param under "train" or "decode".

        An axis whose size its mesh axis does not divide is held whole along it: KV heads fewer than `tensor`, an odd
        vocabulary, a width that `fsdp` does not divide. Other sizes must divide, or there is no Placement.
        """
        return _param_sharding(self, path, layout)

    def shardings(self, params: Any, layout: str) -> Any:
        """The shardings of a params pytree. Optimizer states whose leaves are named like params work too."""
        one = lambda path, leaf: (  # noqa: E731
            self.param_sharding(path_name(path), layout) if np.ndim(leaf) else self.replicated
        )
        return jax.tree_util.tree_map_with_path(one, params)

    def with_shardings(self, shapes: Any, layout: str) -> Any:
        """jax.ShapeDtypeStruct leaves with their shardings, to restore a checkpoint into."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes, self.shardings(shapes, layout),
        )

    def put_param(self, path: str, array: np.ndarray, layout: str) -> jax.Array:
        """One param from host memory into its shards."""
        return from_host(array, self.param_sharding(path, layout))

    @property
    def replicated(self) -> NamedSharding:
        """Held whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def params(self, params: Any, layout: str) -> Any:
        """Moves params into a layout, device to device."""
        return jax.tree.map(_move, params, self.shardings(params, layout))

    def batch(self, arrays: Any, axis: int = 0) -> Any:
        """Host arrays, the same on every process, as global arrays split along `axis` over data and fsdp."""
        return jax.tree.map(lambda a: from_host(a, batch_sharding(self.mesh, axis)), arrays)

    def jit(self, step: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
        """`step` jitted, its results held whole on every device of this mesh unless `out_shardings` says otherwise.

        The same function, mesh and options give the same object, so that nothing is compiled twice.

        Args:
            options: of jax.jit; all hashable.
        """
        return _jitted(step, self.replicated, tuple(sorted(options.items())))


@functools.cache
def _param_sharding(placement: Placement, path: str, layout: str) -> NamedSharding:
    mesh, model = placement.mesh, placement.model
    axes = next((axes for pattern, axes in _LOGICAL_AXES if re.search(pattern, path)), ())
    # Along a mesh axis of one device nothing is split; said so, layouts that do not differ are equal.
    rules = {axis: by if by and mesh.shape[by] > 1 else None for axis, by in _RULES[layout].items()}
    sizes = {"kv_heads": model.num_kv_heads, "vocab": model.vocab_size, "embed": model.hidden_size}
    rules |= {axis: None for axis, size in sizes.items() if rules[axis] and size % mesh.shape[rules[axis]]}
    spec = [rules[axis] if axis is not None else None for axis in axes]
    used = [axis for axis in spec if axis is not None]
    if len(used) != len(set(used)):
        raise ValueError(f"sharding rules put two axes of {path} on one mesh axis: {spec}")
    return NamedSharding(mesh, PartitionSpec(*spec))


@functools.cache
def _jitted(step: Callable[..., Any], out: NamedSharding, options: tuple[tuple[str, Any], ...]) -> jax.stages.Wrapped:
    on_cpu = out.mesh.devices.flat[0].platform == "cpu"
    return jax.jit(step, compiler_options=jax_settings.KEPT_BARRIERS if on_cpu else None,
                   **{"out_shardings": out, **dict(options)})


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Split along `axis` over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), ("data", "fsdp")))


def from_host(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array as a global one; each process, all of which hold it, puts the parts on its own devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def _move(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == sharding:
        return leaf  # as device_put would, in a tenth of the time
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable and not sharding.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    return from_host(np.asarray(leaf), sharding)  # made on this process, the same on each
