"""Objectives that users write: a class, or a plain function.

A function is called as `objective(params, ref_params, batch, model=...)`, where `model` has the methods of `Objective`:
`logprobs`, `logits` and `hidden`, each of (params, batch). The reference it needs is its attribute `reference`. For
example, imitation that stays near the model that training starts from:

    import jax
    import jax.numpy as jnp

    def near_the_start(params, ref_params, batch, *, model):
        ours = jax.nn.log_softmax(model.logits(params, batch))
        start = jax.nn.log_softmax(model.logits(ref_params, batch))
        kl = jnp.sum(jnp.exp(ours) * (ours - start), axis=-1)
        losses = -model.logprobs(params, batch) + 0.1 * kl
        weights = batch["weights"]
        return jnp.sum(losses * weights), jnp.sum(weights), {"kl": jnp.sum(kl * weights)}

    near_the_start.reference = "frozen"
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from ilf_jax.errors import InputError
from ilf_jax.models.transformer import Params
from ilf_jax.training.objectives.objective import REFERENCES, Objective, Sums


def objective_class(definition: Any, name: str) -> type[Objective]:
    """The class of an objective that is a subclass of `Objective` or a function of (params, ref_params, batch, model).

    Args:
        name: of the objective, for messages.

    Raises:
        InputError: it is neither, or names an unknown reference.
    """
    if isinstance(definition, type) and issubclass(definition, Objective):
        made = definition
    elif inspect.isfunction(definition):
        made = _of_function(definition, name)
    else:
        raise InputError(f"objective {name}: expected a subclass of Objective or a function of (params, ref_params, "
                         f"batch, model), got {definition!r}")
    if made.reference not in REFERENCES:
        raise InputError(f"objective {name}: reference={made.reference!r} is not one of "
                         f"{', '.join(map(repr, REFERENCES))}")
    return made


@functools.cache
def _of_function(function: Callable[..., Sums], name: str) -> type[Objective]:
    if "model" not in inspect.signature(function).parameters:
        raise InputError(f"objective {name}: the function needs a parameter `model`, which runs the model: "
                         "def objective(params, ref_params, batch, *, model)")

    class FunctionObjective(Objective):
        """An objective that calls the user's function."""

        reference = getattr(function, "reference", Objective.reference)
        ema_decay = getattr(function, "ema_decay", Objective.ema_decay)

        def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
            """See `Objective`."""
            return function(params, ref_params, batch, model=self)

    return FunctionObjective
