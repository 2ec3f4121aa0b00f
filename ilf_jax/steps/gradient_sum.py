"""Sums of kernel gradients over micro-batches, added inside the backward pass: no second set of gradients in memory.

As a sum after the backward pass, the gradients of a micro-batch live beside the sums so far. `linear.Linear`
spares that: where params hold the sum so far beside a kernel (GRADIENT_SO_FAR), its backward matmul adds to it, and the
kernel's gradient comes out as the new sum. Measured on SmolLM2-135M, two CPU cores, 8 micro-batches: 1,054 MB of
temporaries become 811 MB.

This is right only if a loss uses each kernel in exactly one Linear, once. A second forward pass would add the sum so
far a second time; a kernel that is read without Linear would lose it. So the uses are counted in the traced loss, and
whatever is not recognised counts as too many: then the gradients are added plainly.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import traverse_util
from jax.extend.core import Jaxpr, Literal, Var

from ilf_jax.models.linear import GRADIENT_SO_FAR
from ilf_jax.models.transformer import Params

_TOO_MANY = 2
# Primitives that run one inner program on just their own inputs, once. A scan does so with each layer of a stack.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"}


def beside_kernels(sums: Params) -> Params:
    """Sums of gradients, where the model's layers look for those that they are to add to."""
    flat = traverse_util.flatten_dict(sums)
    return traverse_util.unflatten_dict({
        (*path[:-1], GRADIENT_SO_FAR): leaf for path, leaf in flat.items() if path[-1] == "kernel"})


def add(sums: Params, grads: Params, in_place: bool) -> Params:
    """The new sums. With `in_place`, kernels' gradients are those already."""
    return jax.tree.map_with_path(
        lambda path, old, new: new if in_place and path[-1].key == "kernel" else old + new, sums, grads)


def adds_in_place(loss: Callable[[Params, Params, Any], Any], params: Params, batch: Any) -> tuple[bool, Any]:
    """Whether `loss` uses each kernel of the trained params in one Linear, once; and the shapes of what it returns.

    Args:
        loss: called with trained params, the sums beside them, and a batch. It is traced once, not computed.
        params: the trained params; only shapes and types are looked at, as in `batch`.
        batch: of one micro-batch.
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, beside_kernels(params), batch))
    traced, returned = jax.make_jaxpr(loss, return_shape=True)(*shapes)
    first, number = (len(jax.tree.leaves(part)) for part in shapes[:2])
    sums = traced.jaxpr.invars[first : first + number]
    uses = [0] * number
    _count_uses(traced.jaxpr, {var: i for i, var in enumerate(sums)}, uses)
    return all(count == 1 for count in uses), returned


def _count_uses(program: Jaxpr, sums: dict[Var, int], uses: list[int]) -> None:
    """Adds to `uses` how often a program uses each of the variables `sums` (variable -> index)."""
    for equation in program.eqns:
        given = {place: sums[var] for place, var in enumerate(equation.invars)
                 if not isinstance(var, Literal) and var in sums}
        if not given:
            continue
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)  # some are closed over constants
        name = equation.primitive.name
        before = list(uses)
        in_layers = name == "scan" and min(given) >= equation.params["num_consts"] + equation.params["num_carry"]
        if inner is not None and (name in _CALLS or in_layers or name == "custom_vjp_call"):
            _count_uses(inner, {inner.invars[place]: i for place, i in given.items()}, uses)
        if name == "custom_vjp_call":
            # Linear's own: it ignores the sum forwards. Another one that hands it on to Linears has its own gradient.
            for i in given.values():
                uses[i] = 1 + before[i] if uses[i] == before[i] else _TOO_MANY
        elif name not in _CALLS and not in_layers:
            for i in given.values():
                uses[i] = _TOO_MANY
    for var in program.outvars:
        if not isinstance(var, Literal) and var in sums:
            uses[sums[var]] = _TOO_MANY
