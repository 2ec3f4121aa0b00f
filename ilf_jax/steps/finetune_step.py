"""The train step: a pure function of (state, frozen params, batch, learning rate, reference)."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ilf_jax.errors import InputError
from ilf_jax.models import lora
from ilf_jax.models.transformer import Params
from ilf_jax.steps import gradient_sum

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
LOGGED = ("step", "loss", "grad_norm", "weight", "learning_rate", "tokens")
"""What is logged of every step; an objective's own metrics have other names."""


class Objective(Protocol):
    """What is minimised; `training.objectives.Objective` says more."""

    def __call__(self, params: Params, ref_params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Metrics]:
        """(Loss sum, weight sum, sums to log) of a batch."""


@struct.dataclass
class TrainState:
    """All that training changes; `params` are those that are trained.

    Attributes:
        ema: the moving average of `params` that the objective refers to; {} without one.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params = struct.field(default_factory=dict)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step, without a moving average."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def accumulated_gradients(
    objective: Objective, params: Params, frozen: Params, batch: Batch, ref_params: Params | None = None
) -> tuple[jax.Array, jax.Array, Metrics, Params]:
    """Sums over A micro-batches; arrays of `batch` are A x ...

    Args:
        objective: what is minimised.
        params: the trained params.
        frozen: the model's other params, {} where it has none.
        batch: of `packing.assemble`, micro-batches stacked.
        ref_params: of the objective's reference, whole; None without one.

    Returns:
        (Loss sum, weight sum, metrics, gradient of the loss sum by `params`.)

    Raises:
        InputError: the objective returns something else than it should.
    """
    reference: Params = ref_params or {}

    def loss_of(trained: Params, beside: Params, micro_batch: Batch) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
        whole = lora.join(lora.join(frozen, trained), beside)
        loss, weight, metrics = _checked(objective(whole, reference, micro_batch))
        return loss, (weight, metrics)

    def micro(micro_batch: Batch, beside: Params) -> tuple[tuple[jax.Array, jax.Array, Metrics], Params]:
        (loss, (weight, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, beside, micro_batch)
        return (loss, weight, metrics), grads

    if jax.tree.leaves(batch)[0].shape[0] == 1:
        sums, grads = micro(jax.tree.map(lambda a: a[0], batch), {})
        return *sums, grads

    micro_shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    in_place, (_, (_, metric_shapes)) = gradient_sum.adds_in_place(loss_of, params, micro_shapes)

    def add(total: tuple[Any, Params], micro_batch: Batch) -> tuple[tuple[Any, Params], None]:
        sums, grads_so_far = total
        new_sums, grads = micro(micro_batch, gradient_sum.beside_kernels(grads_so_far) if in_place else {})
        return (jax.tree.map(jnp.add, sums, new_sums), gradient_sum.add(grads_so_far, grads, in_place)), None

    zero = jnp.zeros((), jnp.float32)
    no_metrics = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), metric_shapes)
    nothing = ((zero, zero, no_metrics), jax.tree.map(jnp.zeros_like, params))
    sums, grads = jax.lax.scan(add, nothing, batch)[0]
    return *sums, grads


def _checked(returned: Any) -> tuple[jax.Array, jax.Array, Metrics]:
    """What an objective returned, which a user may have written."""
    expected = "(loss sum, weight sum, dict of sums to log), all scalars"
    if not isinstance(returned, tuple) or len(returned) != 3 or not isinstance(returned[2], dict):
        raise InputError(f"the objective returned {type(returned).__name__}, expected {expected}")
    shapes = [jnp.shape(value) for value in (*returned[:2], *returned[2].values())]
    if any(shapes):
        raise InputError(f"the objective returned arrays of shapes {shapes}, expected {expected}")
    reserved = sorted(set(returned[2]) & set(LOGGED))
    if reserved:
        raise InputError(f"the objective's metrics {', '.join(reserved)}: every step logs these names itself; take "
                         "others")
    loss, weight, sums = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), returned)
    return loss, weight, sums


def train_step(
    objective: Objective, optimizer: optax.GradientTransformation, state: TrainState, frozen: Params, batch: Batch,
    learning_rate: jax.Array | np.floating, reference: Params | None = None, ema_decay: float | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the mean gradient over all predicted tokens of all micro-batches.

    Args:
        objective: what is minimised.
        optimizer: its updates are taken times -learning_rate.
        state: before the step.
        frozen: params that the model needs and that stay as they are; {} where all are trained.
        batch: of `packing.assemble`, micro-batches stacked.
        learning_rate: a scalar, an argument so that changing it compiles nothing.
        reference: the params that a frozen reference has in place of the trained ones; None without such a reference.
        ema_decay: how much of `state.ema` is kept, which then is the reference; None without a moving average.

    Returns:
        The next state, and loss (nats a weighted token), grad_norm, weight (sum of loss weights), and the objective's
        metrics, divided by that weight.
    """
    instead = reference if ema_decay is None else state.ema
    ref_params = None if instead is None else lora.join(frozen, instead)
    loss_sum, weight_sum, sums, grads = accumulated_gradients(objective, state.params, frozen, batch, ref_params)
    weight_sum = jnp.maximum(weight_sum, 1e-8)
    per_weight = 1 / weight_sum
    grads = jax.tree.map(lambda g: g * per_weight, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: -learning_rate * u, updates))
    ema = state.ema
    if ema_decay is not None:
        ema = jax.tree.map(lambda average, new: ema_decay * average + (1 - ema_decay) * new, ema, params)
    metrics = {"loss": loss_sum / weight_sum, "grad_norm": optax.tree.norm(grads), "weight": weight_sum,
               **{name: value / weight_sum for name, value in sums.items()}}
    return TrainState(state.step + 1, params, opt_state, ema), metrics
