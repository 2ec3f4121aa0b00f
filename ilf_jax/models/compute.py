"""How a model is computed, as opposed to what it is."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ilf_jax.models import layer_stack
from ilf_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class ComputeOptions:
    """Static under jit; equal settings compile once.

    Attributes:
        dtype: of activations and matmul inputs; sums, softmax, norms and losses are float32.
        attention: what computes rows that stand by themselves (training, prefill): plain XLA, cuDNN's flash attention
            (NVIDIA, 16 bit), or TPU's splash attention, where a row's length allows it.
        mesh: the devices that splash attention is laid over.
        one_by_one: attention behind a shared prefix may go head by head, see `attention.behind_prefix`; for one CPU.
        rows: how the rows of activations lie on several devices. Left to itself, XLA moves activations to where params
            are sharded over fsdp, instead of the params to them.
        scans: layers run under a scan, their params stacked, see `layer_stack`. Says what programs cost; what is
            computed follows from the params.
    """

    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"
    mesh: Mesh | None = None
    one_by_one: bool = False
    rows: NamedSharding | None = None
    scans: bool = False

    @property
    def num_devices(self) -> int:
        """How many devices compute together."""
        return 1 if self.rows is None else self.rows.mesh.size

    def in_rows(self, x: jax.Array) -> jax.Array:
        """Activations, laid out as `rows` says."""
        return x if self.rows is None else jax.lax.with_sharding_constraint(x, self.rows)

    def to_keep(self, x: jax.Array) -> jax.Array:
        """Activations, B x C x L x D, that training keeps for the backward pass: their tokens are sharded, too.

        Over `tensor`, which otherwise has a copy on each device; `in_use` puts them together again. Where the number of
        tokens does not allow it, they stay as they are.
        """
        if self.rows is None or x.shape[2] % self.rows.mesh.shape["tensor"]:
            return x
        return _moved(x, NamedSharding(self.rows.mesh, PartitionSpec(self.rows.spec[0], None, "tensor")))

    def in_use(self, x: jax.Array) -> jax.Array:
        """What `to_keep` returned, laid out as `rows` says."""
        return x if self.rows is None else _moved(x, self.rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _moved(x: jax.Array, to: NamedSharding) -> jax.Array:
    """The same array, laid out in another way; its gradient stays where it is."""
    return jax.lax.with_sharding_constraint(x, to)


_moved.defvjp(lambda x, to: (_moved(x, to), None), lambda to, _, gradient: (gradient,))


FLOAT32 = ComputeOptions()
"""Plain float32, on any device."""


def in_precision(params: Any, dtype: jnp.dtype) -> Any:
    """Matrices in `dtype`; vectors and scalars, which take no room and whose rounding shows, as they are.

    Leaves are arrays of either kind, or jax.ShapeDtypeStruct.
    """

    def convert(path: tuple[Any, ...], leaf: Any) -> Any:
        stacked = layer_stack.is_stacked(sharding.path_name(path))
        if leaf.ndim - stacked < 2:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=dtype)
        return leaf.astype(dtype, copy=False)

    return jax.tree.map_with_path(convert, params)
