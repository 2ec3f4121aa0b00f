"""The train step: a pure function of (state, frozen params, batch, learning rate)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from ilf_jax.models import lora
from ilf_jax.models.transformer import GRADIENT_SO_FAR, Params

Batch = dict[str, jax.Array]
Objective = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


@struct.dataclass
class TrainState:
    """All that training needs to go on, the frozen params apart; `params` are those that are trained."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def accumulated_gradients(
    objective: Objective, params: Params, frozen: Params, batch: Batch
) -> tuple[jax.Array, jax.Array, Params]:
    """(Loss sum, weight sum, gradient of the loss sum) over A micro-batches; arrays of `batch` are A x ...

    The gradient is that by `params`; `frozen` are the model's other params, {} where it has none.
    """

    def micro(micro_batch: Batch, beside: Params) -> tuple[jax.Array, jax.Array, Params]:
        whole = lambda trained: objective(lora.join(lora.join(frozen, trained), beside), micro_batch)  # noqa: E731
        (loss, weight), grads = jax.value_and_grad(whole, has_aux=True)(params)
        return loss, weight, grads

    def add(total: tuple, micro_batch: Batch) -> tuple[tuple, None]:
        *sums, so_far = total
        *news, grads = micro(micro_batch, _beside_kernels(so_far))
        grads = jax.tree.map_with_path(lambda path, old, new: new if _is_kernel(path) else old + new, so_far, grads)
        return (*jax.tree.map(jnp.add, sums, news), grads), None

    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return micro(jax.tree.map(lambda a: a[0], batch), {})
    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, (zero, zero, jax.tree.map(jnp.zeros_like, params)), batch)[0]


def _is_kernel(path: tuple) -> bool:
    return path[-1].key == "kernel"


def _beside_kernels(grads: Params) -> Params:
    """Sums of gradients, where the model's layers look for those that they are to add to."""
    flat = traverse_util.flatten_dict(grads)
    return traverse_util.unflatten_dict({
        (*path[:-1], GRADIENT_SO_FAR): leaf for path, leaf in flat.items() if path[-1] == "kernel"})


def train_step(
    objective: Objective, optimizer: optax.GradientTransformation, state: TrainState, frozen: Params, batch: Batch,
    learning_rate: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the mean gradient over all predicted tokens of all micro-batches.

    Args:
        optimizer: its updates are taken times -learning_rate.
        frozen: params that the model needs and that stay as they are; {} where all are trained.
        learning_rate: a scalar, an argument so that another one compiles nothing anew.

    Returns:
        The next state, and loss (nats a weighted token), grad_norm, weight (sum of loss weights).
    """
    loss_sum, weight_sum, grads = accumulated_gradients(objective, state.params, frozen, batch)
    weight_sum = jnp.maximum(weight_sum, 1e-8)
    per_weight = 1 / weight_sum
    grads = jax.tree.map(lambda g: g * per_weight, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: -learning_rate * u, updates))
    metrics = {"loss": loss_sum / weight_sum, "grad_norm": optax.tree.norm(grads), "weight": weight_sum}
    return TrainState(state.step + 1, params, opt_state), metrics
