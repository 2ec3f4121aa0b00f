"""Where a model's params and batches lie on the device mesh.

Every param has logical axes; one table per layout maps those to mesh axes. Training shards params over `fsdp` as well;
decoding keeps them whole along that axis, so that no step gathers weights.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ilf_jax.errors import InputError
from ilf_jax.models import layer_stack
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.runtime import sharding

# Param path -> logical axes, first match wins. Norm scales and other vectors not listed are replicated.
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

        An axis whose size its mesh axis does not divide is kept whole along it: KV heads fewer than `tensor`, an odd
        vocabulary, a width that `fsdp` does not divide. Other sizes must divide, or there is no Placement.
        """
        axes = next((axes for pattern, axes in _LOGICAL_AXES if re.search(pattern, path)), ())
        rules = dict(_RULES[layout])
        sizes = {"kv_heads": self.model.num_kv_heads, "vocab": self.model.vocab_size, "embed": self.model.hidden_size}
        rules |= {axis: None for axis, size in sizes.items() if rules[axis] and size % self.mesh.shape[rules[axis]]}
        spec = [rules[axis] if axis is not None else None for axis in axes]
        spec = [None, *spec] if layer_stack.is_stacked(path) else spec  # each device has its part of all layers
        used = [axis for axis in spec if axis is not None]
        if len(used) != len(set(used)):
            raise ValueError(f"sharding rules put two axes of {path} on one mesh axis: {spec}")
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def shardings(self, params: Any, layout: str) -> Any:
        """The shardings of a params pytree. Optimizer states whose leaves are named like params work too."""
        one = lambda path, leaf: (  # noqa: E731
            self.param_sharding(sharding.path_name(path), layout) if np.ndim(leaf) else self.replicated
        )
        return jax.tree_util.tree_map_with_path(one, params)

    def with_shardings(self, shapes: Any, layout: str) -> Any:
        """jax.ShapeDtypeStruct leaves with their shardings, to restore a checkpoint into."""
        return jax.tree.map(
            lambda leaf, target: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target),
            shapes, self.shardings(shapes, layout),
        )

    def put_param(self, path: str, array: np.ndarray, layout: str) -> jax.Array:
        """One param from host memory into its shards."""
        return sharding.from_host(array, self.param_sharding(path, layout))

    @property
    def replicated(self) -> NamedSharding:
        """Held whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def params(self, params: Any, layout: str) -> Any:
        """Moves params into a layout, device to device."""
        return jax.tree.map(sharding.move, params, self.shardings(params, layout))

    def batch(self, arrays: Any, axis: int = 0) -> Any:
        """Host arrays, the same on every process, as global arrays split along `axis` over data and fsdp."""
        return jax.tree.map(lambda a: sharding.from_host(a, sharding.batch_sharding(self.mesh, axis)), arrays)

    def jit(self, step: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
        """`step` jitted, its results replicated on every device of this mesh unless `out_shardings` says otherwise.

        The same function, mesh and options give the same object, so that nothing is compiled twice.

        Args:
            options: of jax.jit; all hashable.
        """
        return sharding.jitted(step, self.replicated, tuple(sorted(options.items())))
