"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, eq. 3): a kernel W becomes W + alpha / rank * A B.

Only A and B are trained, so gradients, Adam's moments and training checkpoints are small. They stand in the params
beside their kernel, where `linear.Linear` finds them. After training they are merged into it: the result is an
ordinary model. D -> F: a kernel's inputs and outputs; r: the rank.
"""

import re
import zlib

import jax
import jax.numpy as jnp
from flax import traverse_util

from ilf_jax.errors import InputError
from ilf_jax.models import layer_stack
from ilf_jax.models.transformer import SCALAR_HEAD, Params

_A, _B, _SCALE = "lora_a", "lora_b", "lora_scale"
_KERNEL = "/kernel"


def target_paths(params: Params, targets: str, section: str = "finetune") -> list[str]:
    """Paths like 'layers_0/attention/q/kernel' of the kernels that the regular expression `targets` matches.

    Args:
        params: arrays or jax.ShapeDtypeStruct; only the names count. Layers in stacks have the names that they have
            one by one.
        section: of the configuration that `targets` comes from, for messages.

    Raises:
        InputError: there are none, or it is not a regular expression.
    """
    kernels = [path for leaf in traverse_util.flatten_dict(params, sep="/") if leaf.endswith(_KERNEL)
               for path in layer_stack.paths(leaf)]
    try:
        matches = [path for path in kernels if re.search(targets, path)]
    except re.error as e:
        raise InputError(f"config.{section}.lora_targets={targets!r}: is not a regular expression: {e}") from e
    if not matches:
        raise InputError(f"config.{section}.lora_targets={targets!r}: matches none of the {len(kernels)} kernels; the "
                         f"first are {', '.join(sorted(kernels)[:7])}")
    return matches


def add(
    params: Params, rank: int, alpha: float, targets: str, key: jax.Array, section: str = "finetune"
) -> Params:
    """Params with `lora_a` (D x r), `lora_b` (r x F) and `lora_scale` (alpha / rank) beside each target kernel.

    A is normal with variance 1 / D, B is zero: the model does not change. Each A has its own key, which does not depend
    on what else is targeted, nor on whether layers are stacked. Of a stack, layers that are no targets have a scale of
    0, which keeps their A and B as they are. Rank 0 adds nothing.

    Args:
        params: of a model without adapters.
        rank: r.
        alpha: updates are scaled by alpha / rank.
        targets: see `target_paths`.
        key: for A.
        section: see `target_paths`.

    Raises:
        InputError: see `target_paths`.
    """
    if rank == 0:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    chosen = set(target_paths(params, targets, section))
    for path in [path for path in flat if chosen.intersection(layer_stack.paths(path))]:
        *layers, D, F = flat[path].shape
        beside = path.removesuffix("kernel")
        scales = [alpha / rank if of_layer in chosen else 0.0 for of_layer in layer_stack.paths(path)]
        names = [zlib.crc32(of_layer.encode()) for of_layer in layer_stack.paths(path)]

        def normal(name: jax.Array, shape: tuple[int, int] = (D, rank)) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, name), shape, jnp.float32)

        a = jax.vmap(normal)(jnp.array(names, jnp.uint32)) if layers else normal(jnp.uint32(names[0]))
        flat[beside + _A] = a * D**-0.5
        flat[beside + _B] = jnp.zeros((*layers, rank, F), jnp.float32)
        flat[beside + _SCALE] = jnp.array(scales, jnp.float32) if layers else jnp.float32(scales[0])
    return traverse_util.unflatten_dict(flat, sep="/")


def split(params: Params) -> tuple[Params, Params]:
    """(Trainable, frozen) params, two trees without common leaves. Without LoRA everything is trainable.

    A scalar head, which starts at zero, is trained with LoRA too.
    """
    flat = traverse_util.flatten_dict(params)
    low_rank = {path for path in flat if path[-1] in (_A, _B)}
    trainable = low_rank | {(SCALAR_HEAD,)} if low_rank else set(flat)
    parts = ({path: leaf for path, leaf in flat.items() if (path in trainable) == wanted} for wanted in (True, False))
    first, second = (traverse_util.unflatten_dict(part) for part in parts)
    return first, second


def join(params: Params, over: Params) -> Params:
    """One tree with the leaves of both; where both have a leaf, that of `over`. `join(frozen, trainable)` undoes split.
    """
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(params) | traverse_util.flatten_dict(over))


def merge(params: Params) -> Params:
    """Params of an ordinary model: float32 kernel + scale * A B in place of the four. Other leaves are left alone."""
    flat = traverse_util.flatten_dict(params)
    merged = {path: leaf for path, leaf in flat.items() if path[-1] not in (_A, _B, _SCALE)}
    for path, a in flat.items():
        if path[-1] == _A:
            beside = path[:-1]
            # Accelerators would otherwise round A and B to bfloat16 or TF32 first.
            product = jnp.matmul(a, flat[(*beside, _B)], precision=jax.lax.Precision.HIGHEST)
            kernel = flat[(*beside, "kernel")].astype(jnp.float32)
            merged[(*beside, "kernel")] = kernel + flat[(*beside, _SCALE)][..., None, None] * product
    return traverse_util.unflatten_dict(merged)
