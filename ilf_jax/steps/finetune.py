"""The train step: a pure function of (state, batch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ilf_jax.models.transformer import Params

Batch = dict[str, jax.Array]
Objective = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


@struct.dataclass
class TrainState:
    """All that training needs to go on."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def accumulated_gradients(objective: Objective, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Params]:
    """(loss sum, weight sum, gradient of the loss sum) over A micro-batches; arrays of `batch` are A x ..."""

    def micro(params: Params, micro_batch: Batch) -> tuple[jax.Array, jax.Array, Params]:
        (loss, weight), grads = jax.value_and_grad(objective, has_aux=True)(params, micro_batch)
        return loss, weight, grads

    first = jax.tree.map(lambda a: a[0], batch)
    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return micro(params, first)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(micro, params, first))
    add = lambda total, one: (jax.tree.map(jnp.add, total, micro(params, one)), None)  # noqa: E731
    return jax.lax.scan(add, nothing, batch)[0]


def train_step(
    objective: Objective, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the mean gradient over all predicted tokens of all micro-batches.

    Returns:
        The next state, and loss (nats a weighted token), grad_norm, weight (sum of loss weights).
    """
    loss_sum, weight_sum, grads = accumulated_gradients(objective, state.params, batch)
    weight_sum = jnp.maximum(weight_sum, 1e-8)
    grads = jax.tree.map(lambda g: g / weight_sum, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss_sum / weight_sum, "grad_norm": optax.global_norm(grads), "weight": weight_sum}
    return TrainState(state.step + 1, params, opt_state), metrics
