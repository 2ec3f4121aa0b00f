"""Gradients of micro-batches add up to those of the whole batch, however often an objective runs the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_objectives import ADAM, CONFIG, make_batch

from ilf_jax.models import lora, transformer
from ilf_jax.models.architecture import SHAPES, small_shape
from ilf_jax.steps import finetune_step, gradient_sum
from ilf_jax.training import objectives, optimizer, train_program
from ilf_jax.training.objectives import objective_class

pytestmark = pytest.mark.usefixtures("quick_compiles")


def two_passes(params, ref_params, batch, *, model):
    """Each pass has a loss of its own."""
    first = model.logprobs(params, batch)
    second = model.logprobs(params, {**batch, "positions": batch["positions"] + 1})
    weights = batch["weights"]
    return -jnp.sum((first + 0.5 * second**2) * weights), jnp.sum(weights), {"second": jnp.sum(second * weights)}


def near_the_start(params, ref_params, batch, *, model):
    ours = jax.nn.log_softmax(model.logits(params, batch))
    start = jax.nn.log_softmax(model.logits(ref_params, batch))
    kl = jnp.sum(jnp.exp(ours) * (ours - start), axis=-1)
    losses = -model.logprobs(params, batch) + 0.1 * kl
    weights = batch["weights"]
    return jnp.sum(losses * weights), jnp.sum(weights), {"kl": jnp.sum(kl * weights)}


near_the_start.reference = "frozen"


def one_pass(params, ref_params, batch, *, model):
    return -jnp.sum(model.logprobs(params, batch) * batch["weights"]), jnp.sum(batch["weights"]), {}


def converted_first(params, ref_params, batch, *, model):
    """The sums would be converted once, and then used twice."""
    return two_passes(jax.tree.map(lambda a: a * 1.0, params), ref_params, batch, model=model)


def in_a_loop(params, ref_params, batch, *, model):
    def add(total, shift):
        return total + jnp.sum(model.logprobs(params, {**batch, "positions": batch["positions"] + shift})), None

    return -jax.lax.scan(add, 0.0, jnp.arange(2))[0], jnp.sum(batch["weights"]), {}


def one_pass_and_one_held_fast(params, ref_params, batch, *, model):
    before = jax.lax.stop_gradient(model.logprobs(params, batch))
    ratio = jnp.exp(model.logprobs(params, batch) - before)
    return -jnp.sum(ratio * batch["weights"]), jnp.sum(batch["weights"]), {}


def kernels_without_the_model(params, ref_params, batch, *, model):
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)]
    return sum(squares), jnp.sum(batch["weights"]), {}


def make(function, **options):
    return objective_class(function, function.__name__)(CONFIG, **options)


@pytest.fixture(scope="module")
def params():
    return transformer.init_params(CONFIG, jax.random.key(0))


def split(params, rank):
    """(Trained params, frozen ones) with adapters that do something."""
    trained, frozen = lora.split(lora.add(params, rank, 6.0, r"(attention|mlp)/\w+/kernel$", jax.random.key(1)))
    noise = np.random.default_rng(1)
    if rank:
        trained = jax.tree.map(lambda a: a + 0.1 * noise.normal(size=a.shape).astype(np.float32), trained)
    return trained, frozen


OBJECTIVES = [two_passes, near_the_start, converted_first, in_a_loop, one_pass_and_one_held_fast, one_pass,
              kernels_without_the_model]


@pytest.mark.parametrize(("function", "rank"), [*((f, 0) for f in OBJECTIVES), (two_passes, 3), (near_the_start, 3)])
def test_micro_batches_add_up(params, function, rank):
    objective, (trained, frozen) = make(function), split(params, rank)
    reference = None
    if objective.reference == "frozen":  # not the trained params themselves, or the KL and its gradient were 0
        reference = lora.join(frozen, jax.tree.map(lambda a: 0.9 * a, trained))
    gradients = jax.jit(finetune_step.accumulated_gradients, static_argnums=0)
    whole = gradients(objective, trained, frozen, make_batch(1), reference)
    for accumulation in (2, 4) if function is two_passes else (4,):
        parts = gradients(objective, trained, frozen, make_batch(accumulation), reference)
        if function is kernels_without_the_model:  # a loss of the params counts once a micro-batch
            parts = jax.tree.map(lambda a: a / accumulation, parts)  # noqa: B023
            parts = (*parts[:1], parts[1] * accumulation, *parts[2:])
        for ours, right in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            assert np.linalg.norm(right) > 0
            assert np.linalg.norm(ours - right) <= 2e-5 * np.linalg.norm(right)


def in_place(objective, params):
    batch = {name: array[0] for name, array in make_batch(1).items()}

    def loss(trained, beside, batch):
        return objective(lora.join(trained, beside), params, batch)[0]

    return gradient_sum.adds_in_place(loss, params, batch)[0]


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_one_pass_is_recognised(params, remat):
    """Of built-in objectives and of a user's, which need not say so."""
    assert in_place(objectives.NextToken(CONFIG, remat=remat), params)
    assert in_place(objectives.Weighted(CONFIG, remat=remat), params)
    assert in_place(make(one_pass, remat=remat), params)
    assert not in_place(make(two_passes, remat=remat), params)


def test_one_pass_of_a_scalar_head_is_recognised():
    config = dataclasses.replace(SHAPES["tiny"], scalar_head=True)
    assert in_place(objectives.Pairwise(config), transformer.param_shapes(config))


@pytest.mark.parametrize("function", [f for f in OBJECTIVES if f is not one_pass])
def test_whatever_else_is_summed_plainly(params, function):
    assert not in_place(make(function), params)


def test_one_pass_takes_less_memory_than_a_plain_sum(monkeypatch):
    """As compiled: there is no second set of gradients."""
    config = dataclasses.replace(small_shape(64, 4, 64), num_heads=4, num_kv_heads=2, head_dim=16)
    params = transformer.param_shapes(config)
    state = jax.eval_shape(
        functools.partial(finetune_step.init_state, optimizer=optimizer.make_optimizer(ADAM)), params)
    step, original = train_program.train_step_program(state), gradient_sum.adds_in_place

    def temporary_bytes():
        step.clear_cache()  # equal objectives are traced once
        lowered = step.lower(objectives.NextToken(config), ADAM, state, {}, make_batch(4), np.float32(0))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    in_place = temporary_bytes()
    monkeypatch.setattr(gradient_sum, "adds_in_place", lambda *args: (False, original(*args)[1]))
    kernels = sum(4 * leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)
                  if path[-1].key == "kernel")
    assert in_place < temporary_bytes() - 0.2 * kernels
