"""Layers in stacks, under a scan, compute what layers one by one do: forwards, backwards, with LoRA, token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilf_jax.inference.model_pool import ModelPool
from ilf_jax.models import checkpoint_io, initialization, layer_stack, lora, transformer
from ilf_jax.models.architecture import SHAPES
from ilf_jax.models.compute import FLOAT32, ComputeOptions, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import checkpoint, sharding
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.steps import finetune_step, gradient_sum, refine_step
from ilf_jax.training import objectives, packing
from tests.models.test_cache import BASE, MODELS

DEPTHS = {"gqa": 5, "sliding_mixed": 8, "learned": 4, "qk_norm": 6, "outputs_normed": 5}
CONFIGS = {name: dataclasses.replace(MODELS[name], num_layers=depth) for name, depth in DEPTHS.items()}
# Every second layer has a window, every fourth no rotary positions; two layers are left over.
CONFIGS["period"] = dataclasses.replace(
    BASE, num_layers=10, sliding_window=4, sliding_pattern=2, unrotated_layers=(3, 7), attention_softcap=2.0)
BFLOAT16 = ComputeOptions(dtype=jnp.bfloat16)
B, C, P, L, V = 3, 2, 12, 6, 64
# What rounding to bfloat16 changes in nearly all logits, of up to 7; measured between the two forms: 0.31 at most.
ROUNDING = 0.2


@functools.cache
def forms(name, bits=32):
    """A model with random params: one by one, and in stacks."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(leaf.ndim == 1, 0.2, leaf.shape), jnp.float32),
                          transformer.param_shapes(CONFIGS[name]))
    if bits == 16:
        params = in_precision(params, jnp.bfloat16)
    return params, layer_stack.stacked(CONFIGS[name], params)


def random_tokens(*shape):
    return np.random.default_rng(len(shape)).integers(0, V, shape).astype(np.int32)


def logits(name, params, compute):
    """Of rows by themselves, B x P x V, and of candidates behind a prefix, B x C x L x V."""
    config = CONFIGS[name]

    @jax.jit
    def both(params):
        alone = transformer.forward(config, params, random_tokens(B, P), compute=compute)
        _, prefix = transformer.prefill(config, params, random_tokens(B, P), np.array([7, 12, 1]), compute=compute)
        behind = transformer.extend(config, params, prefix, random_tokens(B, C, L), compute=compute)
        return [transformer.unembed(config, params, hidden) for hidden in (alone, behind)]

    return [np.asarray(found, np.float32) for found in both(params)]


@pytest.mark.fast
def test_stacks_hold_whole_periods():
    assert layer_stack.stacks(SHAPES["llama_8b"]) == {"layers_0_to_31_by_1": range(32)}
    assert list(map(list, layer_stack.stacks(CONFIGS["period"]).values())) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert list(layer_stack.stacks(CONFIGS["sliding_mixed"])) == ["layers_0_to_6_by_2", "layers_1_to_7_by_2"]
    for layers, sliding, stacked in ((6, (5,), {"layers_0_to_4_by_1"}), (32, (31,), {"layers_0_to_30_by_1"}),
                                     (24, (23,), {"layers_0_to_22_by_1"}), (4, (1, 3), {"layers_0_to_2_by_2",
                                                                                        "layers_1_to_3_by_2"})):
        config = dataclasses.replace(BASE, num_layers=layers, sliding_window=4, sliding_layers=sliding)
        assert {*layer_stack.stacks(config)} == stacked
    for config in (dataclasses.replace(BASE, num_layers=1),
                   dataclasses.replace(BASE, num_layers=6, sliding_window=4, sliding_layers=(0,))):
        assert layer_stack.stacks(config) == {} and layer_stack.compiled_layers(config) == config.num_layers
    assert layer_stack.compiled_layers(SHAPES["llama_70b"]) == 1
    assert layer_stack.compiled_layers(CONFIGS["period"]) == 6


@pytest.mark.parametrize("name", ["gqa", "period"])
def test_stacking_and_back_changes_nothing(name):
    config, (params, stacked) = CONFIGS[name], forms(name)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(params))
    assert sum(leaf.size for leaf in jax.tree.leaves(stacked)) == sum(leaf.size for leaf in jax.tree.leaves(params))
    back = layer_stack.one_by_one(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    shapes = layer_stack.stacked(config, transformer.param_shapes(config))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), stacked)
    half = in_precision(stacked, jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, layer_stack.one_by_one(half), in_precision(params, jnp.bfloat16))


@pytest.mark.parametrize("name", ["period", "learned"])
def test_random_params_in_stacks_are_those_one_by_one(name):
    config = CONFIGS[name]
    right = layer_stack.stacked(config, checkpoint_io.random_params(config, 5))
    found = checkpoint_io.random_params(config, 5, stacked=True)
    assert jax.tree.structure(found) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, found, right)


def test_the_program_that_makes_random_params_in_stacks_does_not_grow_with_depth():
    def lines(layers):
        config = dataclasses.replace(BASE, num_layers=layers)
        key = jax.random.key(0)
        program = jax.jit(functools.partial(initialization.init_stacked, config))
        return len(program.lower(key, initialization.layer_keys(config, key)).as_text().splitlines())

    assert lines(16) == lines(8)


@pytest.mark.parametrize("name", sorted({*CONFIGS} - {"gqa"}))
def test_logits_are_equal(name):
    right, scanned = (logits(name, params, FLOAT32) for params in forms(name))
    half, half_scanned = (logits(name, params, BFLOAT16) for params in forms(name, 16))
    for i in range(2):  # rows by themselves, and behind a prefix
        np.testing.assert_allclose(scanned[i], right[i], atol=2e-5)
        between = np.abs(half[i] - half_scanned[i])
        error, of_scanned = (np.abs(found[i] - right[i]) for found in (half, half_scanned))
        assert 0 < of_scanned.mean() < 1.5 * error.mean()
        # Machines round differently, but the forms differ from each other by less than from float32: 0.6 of it at most.
        assert np.quantile(between, 0.99) < np.quantile(error, 0.99)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("name", ["gqa", "period"])
def test_64_greedy_tokens_are_equal(name, bits):
    """In bfloat16 up to where the two likeliest tokens are as close as rounding is."""
    config, compute = CONFIGS[name], FLOAT32 if bits == 32 else BFLOAT16
    greedy, ends = make_sampling(0.0, 0, 1.0), jnp.zeros(V, jnp.int8)
    prompts, lengths, keys = random_tokens(B, P), np.array([7, 12, 3], np.int32), np.zeros((B, 1, 2), np.uint32)

    @jax.jit
    def decode(params):
        return refine_step.refine_step(
            config, params, prompts, lengths, keys, greedy, ends, max_new_tokens=64, compute=compute)

    one, other = (np.asarray(decode(params).tokens_BxCxL)[:, 0] for params in forms(name, bits))
    if bits == 32:
        np.testing.assert_array_equal(one, other)
    for b in range(B):
        differing = np.flatnonzero(one[b] != other[b])
        if not differing.size:
            continue
        row = np.concatenate([prompts[b, : lengths[b]], one[b, : differing[0]]])[None]
        hidden = transformer.forward(config, forms(name, bits)[0], row, compute=compute)
        last = np.sort(np.asarray(transformer.unembed(config, forms(name, bits)[0], hidden), np.float32)[0, -1])
        assert last[-1] - last[-2] < ROUNDING


def gap(one, other):
    """Of two trees of arrays: the norm of their difference, as a part of that of the first."""
    both = zip(*(jax.tree.leaves(tree) for tree in (one, other)), strict=True)
    of_leaves = np.array([(np.sum(np.square(np.asarray(a) - b)), np.sum(np.square(a))) for a, b in both]).sum(axis=0)
    return float(np.sqrt(of_leaves[0] / of_leaves[1]))


@pytest.mark.parametrize(("name", "remat", "compute", "bound"), [
    ("gqa", "dots", FLOAT32, 1e-5), ("period", "full", FLOAT32, 1e-5), ("gqa", "none", BFLOAT16, 0.05)])
def test_losses_and_gradients_are_equal(name, remat, compute, bound):
    """Over two micro-batches, whose sums of gradients are added inside the backward pass in both forms."""
    config, targets = CONFIGS[name], r"layers_[0-3]/attention/[qv]/"
    examples = [packing.TrainingExample(row, np.array([0.0] * 4 + [1.0] * 8, np.float32))
                for row in random_tokens(4, P)]
    parts = [packing.assemble(examples[a : a + 2], [[0], [1]], num_rows=2, row_length=P, num_targets=8)
             for a in (0, 2)]
    batch = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    objective = objectives.NextToken(config, compute, remat)

    @jax.jit
    def of(params):
        loss, weight, _, grads = finetune_step.accumulated_gradients(objective, params, {}, batch)
        adapted, frozen = lora.split(lora.add(params, 3, 6.0, targets, jax.random.key(2)))
        adapted = jax.tree.map(lambda leaf: leaf + 0.1, adapted)
        of_lora, _, _, lora_grads = finetune_step.accumulated_gradients(objective, adapted, frozen, batch)
        merged = lora.merge(lora.join(frozen, adapted))
        return jnp.stack([loss, weight, of_lora]), *map(layer_stack.one_by_one, (grads, lora_grads, merged))

    (sums, grads, lora_grads, merged), (s_sums, s_grads, s_lora_grads, s_merged) = map(of, forms(name))
    np.testing.assert_allclose(sums, s_sums, rtol=bound)
    assert gap(grads, s_grads) < bound and gap(merged, s_merged) < 1e-6
    adapted = dict(jax.tree.leaves_with_path(lora_grads))
    of_stacks = dict(jax.tree.leaves_with_path(s_lora_grads))
    assert len(adapted) == 4 * 2 * 2 and all(np.any(leaf) for leaf in adapted.values())
    assert gap([*adapted.values()], [of_stacks[path] for path in adapted]) < bound
    assert not any(np.any(of_stacks[path]) for path in {*of_stacks} - {*adapted})  # layers that are no targets


def test_sums_of_gradients_are_added_in_place_in_both_forms():
    config = CONFIGS["gqa"]
    for params in forms("gqa"):
        batch = packing.assemble([packing.TrainingExample(random_tokens(P), np.ones(P, np.float32))], [[0]],
                                 num_rows=1, row_length=P, num_targets=P)
        objective = objectives.NextToken(config, FLOAT32, "none")

        def loss(trained, beside, batch, objective=objective):
            return objective(lora.join(trained, beside), {}, batch)[0]

        assert gradient_sum.adds_in_place(loss, params, batch)[0]


def test_each_device_has_its_part_of_all_layers():
    placement = Placement(sharding.make_mesh(-1, 1, 1), CONFIGS["gqa"])
    for path in ("attention/q/kernel", "mlp/down/lora_b", "attention_norm/scale"):
        of_one = placement.param_sharding(f"layers_0/{path}", "train").spec
        of_stack = placement.param_sharding(f"layers_0_to_3_by_1/{path}", "train").spec
        assert tuple(of_stack) == (None, *of_one)


def test_checkpoints_do_not_depend_on_the_form(tmp_path):
    uri, mesh = "builtin:word_removal_1m", sharding.make_mesh(-1, 1, 1)
    scanning, unrolled = (ModelPool(mesh, 0, layers=layers) for layers in ("scan", "unrolled"))
    stacked, params = scanning.get(uri), unrolled.get(uri)
    assert any(layer_stack.is_stacked(name) for name in stacked)
    jax.tree.map(np.testing.assert_array_equal, layer_stack.one_by_one(stacked), params)
    on_host = jax.tree.map(np.asarray, stacked)
    checkpoint.save_model(tmp_path, layer_stack.one_by_one(on_host), {}).result()
    found = checkpoint.load_model(tmp_path, transformer.param_shapes(unrolled.config(uri)))
    jax.tree.map(np.testing.assert_array_equal, found, params)
