"""The optimizer and its schedules against optax's own; one program whatever the learning rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ilf_jax.runtime import performance
from ilf_jax.steps import finetune_step
from ilf_jax.training import optimizer, train_program

pytestmark = [pytest.mark.fast, pytest.mark.versions]

STEPS = 12


def quadratic(params, ref_params, batch):
    """A loss of small programs: a sum of squares, whose gradients differ from step to step."""
    return jnp.sum((params["w"] @ batch["x"] + params["b"]) ** 2), jnp.float32(batch["x"].size), {}


def make_params():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32), "b": jnp.ones(4, jnp.float32)}


def make_batch(step):
    return {"x": np.random.default_rng(step + 1).normal(size=(1, 5)).astype(np.float32)}


def by_optax(kind, peak, warmup):
    """The schedule, put together from optax's."""
    rest = max(1, STEPS - warmup)
    after = {"constant": optax.constant_schedule(peak), "linear": optax.linear_schedule(peak, 0.0, rest),
             "cosine": optax.cosine_decay_schedule(peak, rest)}[kind]
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(1, warmup))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


@pytest.mark.parametrize("warmup", [0, 3, STEPS])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_equal_optax(kind, warmup):
    ours = optimizer.Schedule(kind, 0.3, num_steps=STEPS, warmup_steps=warmup)
    theirs = by_optax(kind, 0.3, warmup)
    np.testing.assert_allclose([ours(s) for s in range(STEPS)], [float(theirs(s)) for s in range(STEPS)], atol=1e-7)


def rates(kind, warmup_steps=0):
    schedule = optimizer.Schedule(kind, 1.0, num_steps=10, warmup_steps=warmup_steps)
    return [schedule(step) for step in range(10)]


def test_schedules_by_hand():
    assert rates("constant") == [1.0] * 10
    np.testing.assert_allclose(rates("linear"), 1 - np.arange(10) / 10)
    np.testing.assert_allclose(rates("cosine"), (1 + np.cos(np.pi * np.arange(10) / 10)) / 2)
    rise = [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(rates("constant", warmup_steps=3), [*rise, *[1.0] * 6])
    np.testing.assert_allclose(rates("linear", warmup_steps=3), [*rise, *(1 - np.arange(1, 7) / 7)])
    assert min(rates("linear", warmup_steps=10)) > 0
    assert min(rates("cosine", warmup_steps=9)) > 0


@pytest.mark.parametrize(("kind", "warmup", "decay", "clip"), [("constant", 0, 0.0, 0.0), ("linear", 3, 0.1, 1.0),
                                                               ("cosine", 2, 0.5, 0.0)])
def test_train_steps_equal_adamw(kind, warmup, decay, clip):
    """Params after each of many steps; gradients are ours for both, as clipping and Adam are what is compared."""
    config = optimizer.OptimizerConfig(decay, clip, b2=0.95)
    schedule = optimizer.Schedule(kind, 0.1, num_steps=STEPS, warmup_steps=warmup)
    adamw = optax.adamw(by_optax(kind, 0.1, warmup), b1=0.9, b2=0.95, weight_decay=decay)
    right = optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), adamw)
    step = jax.jit(functools.partial(finetune_step.train_step, quadratic, optimizer.make_optimizer(config)))
    update, params = jax.jit(right.update), make_params()
    state, right_state = finetune_step.init_state(params, optimizer.make_optimizer(config)), right.init(params)
    for i in range(STEPS):
        grads = finetune_step.accumulated_gradients(quadratic, params, {}, make_batch(i))[-1]
        updates, right_state = update(jax.tree.map(lambda g: g / 5, grads), right_state, params)  # 5 inputs
        params = optax.apply_updates(params, updates)
        state, metrics = step(state, {}, make_batch(i), np.float32(schedule(i)))
        if clip and i == 0:
            assert float(metrics["grad_norm"]) > clip  # so that clipping is seen
        for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
    assert np.abs(params["w"] - make_params()["w"]).max() > 0.1


def test_another_learning_rate_compiles_nothing():
    """The jitted step of the stage: one program for all rates, schedules and numbers of steps."""
    compiled = []
    for kind, peak, num_steps, warmup in (("constant", 1e-3, 3, 0), ("linear", 0.5, 5, 1), ("cosine", 2, 4, 2)):
        config = optimizer.OptimizerConfig(weight_decay=0.1, clip_norm=1.0)
        schedule = optimizer.Schedule(kind, peak, num_steps=num_steps, warmup_steps=warmup)
        state = finetune_step.init_state(make_params(), optimizer.make_optimizer(config))
        state = jax.device_put(state, jax.devices()[0])  # as what a step returns
        before = np.asarray(state.params["w"])
        train_step = train_program.train_step_program(state)
        if not compiled:
            train_step.clear_cache()
        meter = performance.Meter()
        for i in range(num_steps):
            state, _ = train_step(quadratic, config, state, {}, make_batch(i), np.float32(schedule(i)))
        cost = meter.cost()
        compiled.append(cost["compilations"] + cost["cache_hits"])
        assert np.abs(state.params["w"] - before).max() > peak / 2
    assert compiled[0] > 0 and compiled[1:] == [0, 0]
