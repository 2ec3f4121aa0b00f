"""The compiled train step, and all that it takes: training makes arrays of it, the dry run only shapes."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.config_sections import Training
from ilf_jax.models import lora, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.models.transformer import Params
from ilf_jax.runtime import compile_ahead, hardware
from ilf_jax.runtime.sharding import batch_sharding
from ilf_jax.steps import finetune_step
from ilf_jax.steps.finetune_step import Batch, TrainState
from ilf_jax.training import optimizer
from ilf_jax.training.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the train step takes beside a batch: arrays, or jax.ShapeDtypeStruct, each with its sharding.

    Attributes:
        state: before the first step.
        frozen: params that are not trained, {} without LoRA.
        reference: what a frozen reference has in place of the trained params; None for objectives without one.
    """

    state: TrainState
    frozen: Params
    reference: Params | None


def trainable(
    architecture: ModelConfig, settings: Training, section: str, params: Params, key: jax.Array
) -> Params:
    """Params with the scalar head that the model has, if it is new, and LoRA's where it is wanted.

    Args:
        architecture: of the model that is trained.
        settings: how it is trained.
        section: of the config that `settings` are, for messages.
        params: of the checkpoint; arrays, or jax.ShapeDtypeStruct under `jax.eval_shape`.
        key: for LoRA's random matrices.
    """
    if architecture.scalar_head and transformer.SCALAR_HEAD not in params:
        params = transformer.with_scalar_head(architecture, params)
    return lora.add(params, settings.lora_rank, settings.lora_alpha, settings.lora_targets, key, section)


def split(settings: Training, placement: Placement, params: Params) -> tuple[Params, Params]:
    """(Trained params, frozen params), in the training layout; frozen ones in config's lora_base_precision."""
    trained, frozen = lora.split(params)
    del params
    frozen = in_precision(frozen, jnp.dtype(settings.lora_base_precision))
    return _placed(placement, trained), _placed(placement, frozen)


def argument_shapes(
    opt: optimizer.OptimizerConfig, placement: Placement, objective: Objective, trained: Params, frozen: Params,
    reference: Params | None = None,
) -> Arguments:
    """The shapes and shardings of all that the train step takes.

    Args:
        opt: the optimizer.
        placement: where the model lies.
        objective: what is minimised; says whether there is a second copy of the params.
        trained: see `split`; arrays, or jax.ShapeDtypeStruct.
        frozen: see `split`.
        reference: other params for a frozen reference than those that training starts from.
    """
    trained, frozen = jax.tree.map(_shape_of, (trained, frozen))
    counter: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=placement.replicated)
    opt_state = placement.with_shardings(jax.eval_shape(optimizer.make_optimizer(opt).init, trained), "train")
    state = TrainState(counter, trained, opt_state, trained if objective.reference == "ema" else {})
    if objective.reference == "frozen":
        return Arguments(state, frozen, trained if reference is None else jax.tree.map(_shape_of, reference))
    return Arguments(state, frozen, None)


def batch_shapes(
    placement: Placement, arrays: Mapping[str, np.ndarray] | Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and shardings of a batch: A micro-batches of rows that are split over data and fsdp."""
    sharding = batch_sharding(placement.mesh, axis=1)
    shapes: Any = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for name, a in arrays.items()}
    return shapes


def lower(
    opt: optimizer.OptimizerConfig, objective: Objective, arguments: Arguments,
    batch: Mapping[str, jax.ShapeDtypeStruct],
) -> jax.stages.Lowered:
    """The train step for what `argument_shapes` and `batch_shapes` return."""
    return train_step_program(arguments.state, _remat(objective)).lower(
        objective, opt, arguments.state, arguments.frozen, batch, np.float32(0),
        arguments.reference)


def begin(
    opt: optimizer.OptimizerConfig, placement: Placement, objective: Objective, trained: Params, frozen: Params,
    first_batch: Mapping[str, np.ndarray], reference: Params | None = None,
) -> tuple[jax.stages.Wrapped, Arguments]:
    """The train step, compiled, and the arrays that it begins with.

    On a CPU, Adam's moments are gigabytes that the system hands out page by page; meanwhile the step is compiled, or
    loaded. jax keeps what was compiled by shapes and shardings: the first call with arrays like these finds it there.

    Args:
        opt: the optimizer.
        placement: where the model lies.
        objective: what is minimised.
        trained: see `split`; the state takes these arrays over.
        frozen: see `split`.
        first_batch: any batch; all have its shapes.
        reference: see `argument_shapes`.
    """
    like = argument_shapes(opt, placement, objective, trained, frozen, reference)
    train_step = train_step_program(like.state, _remat(objective))
    batch = batch_shapes(placement, first_batch)
    with compile_ahead.compiling(
        train_step, objective, opt, like.state, like.frozen, batch, np.float32(0), like.reference
    ):
        shardings, opt_tree = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, like.state.opt_state))
        opt_state = _jitted_init(opt, opt_tree, tuple(shardings))(trained)
        ema = jax.tree.map(jnp.copy, trained) if objective.reference == "ema" else {}
        if objective.reference == "frozen" and reference is None:
            reference = jax.tree.map(jnp.copy, trained)
    state = TrainState(jnp.zeros((), jnp.int32, device=placement.replicated), trained, opt_state, ema)
    return train_step, Arguments(state, frozen, reference)


def train_step_program(state: TrainState, remat: str = "none") -> jax.stages.Wrapped:
    """The train step, jitted; see `_train_step` for what it takes.

    Args:
        state: arrays, or jax.ShapeDtypeStruct; the next state lies where this one does.
        remat: as in config.finetune.remat; on CPUs, operations are ordered by it.
    """
    shardings, tree = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, state))
    devices = next((s.device_set for s in shardings if s is not None), jax.devices())
    options = hardware.train_step_on_cpu(remat) if next(iter(devices)).platform == "cpu" else {}
    return _jitted_train_step(tree, tuple(shardings), tuple(sorted(options.items())))


def _remat(objective: Objective) -> str:
    return getattr(objective, "remat", "none")  # a user's need not have it


@functools.cache
def _jitted_train_step(
    tree: jax.tree_util.PyTreeDef, shardings: tuple, options: tuple[tuple[str, str], ...]
) -> jax.stages.Wrapped:
    return jax.jit(
        _train_step, static_argnames=("objective", "optimizer_config"), donate_argnames="state",
        out_shardings=(jax.tree.unflatten(tree, shardings), None),
        compiler_options=dict(options) or None,
    )


def _train_step(
    objective: Objective, optimizer_config: optimizer.OptimizerConfig, state: TrainState, frozen: Params,
    batch: Batch, learning_rate: jax.Array, reference: Params | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    made = optimizer.make_optimizer(optimizer_config)
    decay = objective.ema_decay if state.ema else None
    return finetune_step.train_step(objective, made, state, frozen, batch, learning_rate, reference, decay)


@functools.cache
def _jitted_init(
    opt: optimizer.OptimizerConfig, tree: jax.tree_util.PyTreeDef, shardings: tuple
) -> jax.stages.Wrapped:
    """Adam's state in one program: leaf by leaf, zeros for the moments are filled by one core."""
    return jax.jit(optimizer.make_optimizer(opt).init, out_shardings=jax.tree.unflatten(tree, shardings))


def _placed(placement: Placement, params: Params) -> Params:
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return placement.with_shardings(params, "train")
    return placement.params(params, "train")


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
