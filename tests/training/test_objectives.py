"""Losses, gradients and the train step against independent references."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ilf_jax.models import transformer
from ilf_jax.models.architecture import SHAPES, small_shape
from ilf_jax.steps import finetune_step
from ilf_jax.training import objectives, optimizer, packing, train_program
from ilf_jax.training.objectives import token_losses

V, END = 64, 3
CONFIG = dataclasses.replace(small_shape(32, 1, V), num_heads=4, num_kv_heads=2, head_dim=8)
ADAM = optimizer.OptimizerConfig(weight_decay=0.1, clip_norm=1.0)
RATE = 1e-2


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_step(objective, config, state, batch):
    return finetune_step.train_step(objective, optimizer.make_optimizer(config), state, {}, batch, RATE)


@pytest.fixture(scope="module")
def params():
    return transformer.init_params(CONFIG, jax.random.key(0))


def make_batch(accumulation, count=8, seed=0):
    """The same examples as `accumulation` micro-batches; their numbers of target tokens differ."""
    rng = np.random.default_rng(seed)
    examples = [
        packing.training_example(
            rng.integers(0, V, 4), rng.integers(0, V, rng.integers(1, 10)), END, prompt_weight=0.2
        )
        for _ in range(count)
    ]
    size = count // accumulation
    parts = [
        packing.assemble(examples, [[i] for i in range(a * size, (a + 1) * size)], num_rows=size, row_length=16,
                         num_targets=14)
        for a in range(accumulation)
    ]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def plain_loss(params, batch, config=CONFIG):
    """Loss sum and weight sum by log_softmax over all logits at once; one example a row."""
    batch = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.items()}
    hidden = transformer.forward(config, params, batch["tokens"])
    logp = jax.nn.log_softmax(transformer.unembed(config, params, hidden))
    rows = jnp.arange(len(batch["tokens"]))[:, None]
    picked = logp[rows, batch["index"], batch["targets"]]
    return -jnp.sum(picked * batch["weights"]), jnp.sum(batch["weights"])


def value_and_grad(objective, params, batch):
    """((Loss sum, weight sum), gradient) of an objective without a reference."""
    def loss(params):
        loss_sum, weight_sum, _ = objective(params, {}, batch)
        return loss_sum, weight_sum

    return jax.value_and_grad(loss, has_aux=True)(params)


def assert_trees_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.linalg.norm(np.asarray(x) - np.asarray(y)) <= tolerance * max(np.linalg.norm(y), 1e-3)


@pytest.mark.parametrize("chunk_positions", [1, 5, 14])
@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False, "logit_softcap": 3.0, "logit_scale": 0.7}])
def test_chunked_loss_equals_the_plain_loss(monkeypatch, chunk_positions, changes):
    """Value and gradients, for chunks that do and do not divide the 14 positions."""
    monkeypatch.setattr(token_losses, "_CHUNK_BYTES", chunk_positions * V * 4)
    config = dataclasses.replace(CONFIG, **changes)
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(3, 14, 32)), jnp.float32)
    targets, weights = rng.integers(0, V, (3, 14)), jnp.asarray(rng.random((3, 14)), jnp.float32)
    tables = {name: jnp.asarray(rng.normal(size=(V, 32)) / 4, jnp.float32) for name in ("embedding", "unembedding")}

    def chunked(tables, hidden):
        return jnp.sum(token_losses.token_losses(config, tables, hidden, targets) * weights)

    def plain(tables, hidden):
        logits = hidden @ tables["embedding" if config.tied_embeddings else "unembedding"].T * config.logit_scale
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0] * weights)

    unembedded, unembed = [], transformer.unembed

    def recorded(config, params, hidden):
        unembedded.append(hidden.shape[1])
        return unembed(config, params, hidden)

    with monkeypatch.context() as patch:
        patch.setattr(token_losses.transformer, "unembed", recorded)
        losses = token_losses.token_losses(config, tables, hidden, targets)
    assert losses.shape == (3, 14)
    assert max(unembedded) <= chunk_positions  # logits exist a chunk at a time
    found, found_grads = jax.value_and_grad(chunked, argnums=(0, 1))(tables, hidden)
    right, right_grads = jax.value_and_grad(plain, argnums=(0, 1))(tables, hidden)
    assert float(found) == pytest.approx(float(right), rel=1e-6)
    assert_trees_close(found_grads, right_grads, 1e-5)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_objective_equals_the_plain_loss(params, remat):
    batch = make_batch(1)
    objective = objectives.NextToken(CONFIG, remat=remat)
    one = {name: array[0] for name, array in batch.items()}
    (loss, weight), grads = jax.jit(value_and_grad, static_argnums=0)(objective, params, one)
    (right, right_weight), right_grads = jax.jit(jax.value_and_grad(plain_loss, has_aux=True))(params, batch)
    assert float(loss) == pytest.approx(float(right), rel=1e-6)
    assert float(weight) == pytest.approx(float(right_weight), rel=1e-6)
    assert_trees_close(grads, right_grads, 1e-5)


@pytest.mark.usefixtures("optimised")
def test_remat_recomputes_activations(params):
    """In the backward pass 'full' computes a whole layer again, 'dots' all of it but the matmuls with params."""
    one = {name: array[0] for name, array in make_batch(1).items()}
    found = {}
    for remat in ("none", "full", "dots"):
        gradient = functools.partial(value_and_grad, objectives.NextToken(CONFIG, remat=remat))
        cost = jax.jit(gradient).lower(params, one).compile().cost_analysis()
        found[remat] = cost["flops"], cost["transcendentals"]
    (plain, softmaxes), (dots, dots_softmaxes), (full, full_softmaxes) = (found[k] for k in ("none", "dots", "full"))
    assert min(full_softmaxes, dots_softmaxes) > 1.1 * softmaxes
    matmuls = 2 * one["tokens"].size * sum(leaf.size for leaf in jax.tree.leaves(params["layers_0"]))
    assert full - dots > 0.6 * matmuls  # the layer's linears; what the backward pass does not read is left out
    assert plain < dots < plain + 0.4 * matmuls


@pytest.mark.usefixtures("optimised")
def test_remat_takes_less_memory_in_the_stage_s_train_step():
    """As compiled, not as traced: XLA may undo what is asked of it."""
    config = dataclasses.replace(small_shape(32, 6, V), num_heads=4, num_kv_heads=2, head_dim=8)
    state = jax.eval_shape(lambda key: finetune_step.init_state(
        transformer.init_params(config, key), optimizer.make_optimizer(ADAM)), jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((1, 8, 128), jnp.int32) for name in ("tokens", "positions", "segments")}
    batch |= {name: jax.ShapeDtypeStruct((1, 8, 8), jnp.int32) for name in ("index", "targets")}
    batch["weights"] = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)
    temporary = {}
    for remat in ("none", "dots", "full"):
        objective = objectives.NextToken(config, remat=remat)
        step = train_program.train_step_program(state).lower(
            objective, ADAM, state, {}, batch, jnp.float32(RATE)).compile()
        temporary[remat] = step.memory_analysis().temp_size_in_bytes
    assert temporary["dots"] < 0.6 * temporary["none"], temporary
    assert temporary["full"] < 0.8 * temporary["dots"], temporary


def test_equal_objectives_are_equal():
    """They are static arguments of jit: a new object must not compile a new program."""
    a, b = (objectives.NextToken(dataclasses.replace(CONFIG)) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != objectives.NextToken(CONFIG, remat="full")


def test_accumulated_equals_full_batch(params):
    """By gradient descent, clipped: Adam would blow up rounding wherever a gradient is nothing else."""
    objective, clip = objectives.NextToken(CONFIG), optax.clip_by_global_norm(1.0)
    step = jax.jit(functools.partial(finetune_step.train_step, objective, clip))
    results = {}
    for accumulation in (1, 2, 4):
        state = finetune_step.init_state(params, clip)
        for seed in range(2):
            state, metrics = step(state, {}, make_batch(accumulation, seed=seed), 0.5)
        assert int(state.step) == 2
        results[accumulation] = state.params, metrics
    assert np.abs(results[1][0]["embedding"] - params["embedding"]).max() > 1e-2
    for accumulation in (2, 4):
        for name in ("loss", "grad_norm", "weight"):
            assert float(results[accumulation][1][name]) == pytest.approx(float(results[1][1][name]), rel=1e-5)
        for x, y in zip(*(jax.tree.leaves(results[a][0]) for a in (accumulation, 1)), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize("config", [ADAM, dataclasses.replace(ADAM, clip_norm=0.0, weight_decay=0.0, b2=0.95)])
def test_train_step_equals_a_by_hand_optax_update(params, config):
    batch = make_batch(2)
    objective = objectives.NextToken(CONFIG)
    state = finetune_step.init_state(params, optimizer.make_optimizer(config))
    state, metrics = train_step(objective, config, state, batch)

    (loss, weight), grads = jax.jit(jax.value_and_grad(plain_loss, has_aux=True))(params, batch)
    grads = jax.tree.map(lambda g: np.asarray(g, np.float64) / float(weight), grads)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    assert float(metrics["loss"]) == pytest.approx(float(loss / weight), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert float(metrics["weight"]) == pytest.approx(float(weight), rel=1e-6)
    if config.clip_norm:
        assert norm > config.clip_norm  # so that clipping is seen
        grads = jax.tree.map(lambda g: g * config.clip_norm / norm, grads)
    # AdamW's first step (Loshchilov & Hutter 2019): m_hat = g, v_hat = g^2.
    right = jax.tree.map(
        lambda p, g: p - RATE * (g / (np.abs(g) + 1e-8) + config.weight_decay * p), params, grads
    )
    for p, q, g in zip(*map(jax.tree.leaves, (state.params, right, grads)), strict=True):
        solid = np.abs(g) > 1e-5  # where rounding does not decide the sign
        np.testing.assert_allclose(np.asarray(p)[solid], np.asarray(q)[solid], atol=2e-5)
        assert solid.any()


def test_a_batch_without_targets_changes_nothing_but_the_decay(params):
    config = dataclasses.replace(ADAM, weight_decay=0.0)
    batch = make_batch(1)
    batch["weights"] = np.zeros_like(batch["weights"])
    state = finetune_step.init_state(params, optimizer.make_optimizer(config))
    state, metrics = train_step(objectives.NextToken(CONFIG), config, state, batch)
    assert float(metrics["loss"]) == 0
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_training_learns_a_fixed_problem(params):
    """Golden metric: 20 steps take the loss on 8 texts from about log(64) = 4.2 to below 0.5."""
    objective = objectives.NextToken(CONFIG)
    config = dataclasses.replace(ADAM, weight_decay=0.0)
    state, batch = finetune_step.init_state(params, optimizer.make_optimizer(config)), make_batch(1, seed=5)
    losses = []
    for _ in range(20):
        state, metrics = train_step(objective, config, state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 3.0
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5


def test_pairwise_loss_and_gradient_are_those_of_the_formula():
    config = dataclasses.replace(SHAPES["tiny"], scalar_head=True)
    params = transformer.init_params(config, jax.random.key(0))
    params["scalar_head"] = jax.random.normal(jax.random.key(1), (config.hidden_size,))
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, config.vocab_size, n).tolist() for n in (5, 8, 7, 3, 6, 6)]
    examples = [packing.pair(*(packing.training_example(text, (), 0, prompt_weight=0.0) for text in pair))
                for pair in zip(texts[::2], texts[1::2], strict=True)]

    def by_formula(params):
        def reward(text):
            return transformer.forward(config, params, jnp.array([text]))[0, -1] @ params["scalar_head"]

        return sum(-jnp.log(jax.nn.sigmoid(reward(better) - reward(worse)))
                   for better, worse in zip(texts[::2], texts[1::2], strict=True))

    expected, expected_grads = jax.value_and_grad(by_formula)(params)
    loss = objectives.Pairwise(config)
    for rows in ([[0], [1], [2]], [[1, 2], [0]]):  # one pair a row, and packed
        batch = packing.assemble(examples, rows, num_rows=3, row_length=40, num_targets=4)
        (total, weight), grads = value_and_grad(loss, params, batch)
        assert total == pytest.approx(float(expected), rel=1e-5) and weight == 3
        for (path, grad), (_, other) in zip(jax.tree_util.tree_leaves_with_path(grads),
                                            jax.tree_util.tree_leaves_with_path(expected_grads), strict=True):
            np.testing.assert_allclose(grad, other, rtol=1e-4, atol=2e-5, err_msg=str(path))
