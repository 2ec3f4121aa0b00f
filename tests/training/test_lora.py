"""LoRA: adapters are what the formula says, the base stays as it is, and a run with them ends in an ordinary model."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.export import export_policy
from ilf_jax.models import checkpoint_io, lora, transformer
from ilf_jax.models import placement as placement_lib
from ilf_jax.models.architecture import small_shape
from ilf_jax.models.compute import FLOAT32, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import checkpoint, sharding
from ilf_jax.steps import finetune_step
from ilf_jax.training import objectives, optimizer, packing, train_program

V, END, RANK = 64, 3, 3
CONFIG = dataclasses.replace(small_shape(32, 2, V), num_heads=4, num_kv_heads=2, head_dim=8, qkv_bias=True)
ALL = r"(attention|mlp)/\w+/kernel$"
KEY = jax.random.key(7)
KERNELS = 2 * 7  # q, k, v, o, gate, up, down of two layers


@pytest.fixture(scope="module")
def base():
    return transformer.init_params(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def trained(base):
    """Params with adapters that do something: B is not zero any more."""
    params, frozen = lora.split(lora.add(base, RANK, 6.0, ALL, KEY))
    rng = np.random.default_rng(1)
    return lora.join(frozen, jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32), params))


def make_batch(seed=0, count=6):
    rng = np.random.default_rng(seed)
    examples = [packing.training_example(rng.integers(0, V, 4), rng.integers(0, V, 6), END, prompt_weight=0.2)
                for _ in range(count)]
    batch = packing.assemble(examples, [[i] for i in range(count)], num_rows=count, row_length=12, num_targets=10)
    return {name: array[None] for name, array in batch.items()}


@functools.partial(jax.jit, static_argnums=2)
def logits(params, tokens, compute=FLOAT32):
    return transformer.unembed(CONFIG, params, transformer.forward(CONFIG, params, tokens, compute=compute))


def assert_equal_bits(a, b):
    ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (a, b))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, x), (_, y) in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def names(params):
    return [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def test_add_by_hand(base):
    params = lora.add(base, RANK, 6.0, ALL, KEY)
    down = params["layers_1"]["mlp"]["down"]
    assert down["lora_a"].shape == (CONFIG.intermediate_size, RANK) and down["lora_b"].shape == (RANK, 32)
    assert float(down["lora_scale"]) == 2.0
    assert not np.any(down["lora_b"])
    drawn = np.concatenate([np.ravel(a) * len(a) ** 0.5 for name, a in zip(names(params), jax.tree.leaves(params),
                                                                           strict=True) if name.endswith("lora_a")])
    assert abs(np.std(drawn) - 1) < 0.1 and abs(np.mean(drawn)) < 0.1
    assert len({np.asarray(a).tobytes() for name, a in zip(names(params), jax.tree.leaves(params), strict=True)
                if name.endswith("lora_a")}) == KERNELS  # each drawn by itself
    assert_equal_bits(lora.add(base, 0, 6.0, "no such kernel", KEY), base)


def test_targets(base):
    params = lora.add(base, RANK, 6.0, r"layers_0/attention/[qv]/", KEY)
    assert [n for n in names(params) if n.endswith("lora_a")] == [f"layers_0/attention/{x}/lora_a" for x in "qv"]
    whole = lora.add(base, RANK, 6.0, ALL, KEY)
    assert_equal_bits(params["layers_0"]["attention"]["q"], whole["layers_0"]["attention"]["q"])


@pytest.mark.parametrize(("targets", "words"), [
    ("attention/query", ["matches none of the 14 kernels", "layers_0/attention/k/kernel"]),
    ("embedding", ["matches none"]), ("(", ["not a regular expression"]),
])
def test_targets_that_match_nothing(base, targets, words):
    with pytest.raises(InputError) as error:
        lora.add(base, RANK, 6.0, targets, KEY)
    for word in ("config.finetune.lora_targets", repr(targets), *words):
        assert word in str(error.value)


def test_split_and_join(base, trained):
    params, frozen = lora.split(trained)
    assert {name.rsplit("/", 1)[1] for name in names(params)} == {"lora_a", "lora_b"}
    assert len(names(params)) == 2 * KERNELS
    assert not set(names(params)) & set(names(frozen))
    assert_equal_bits(lora.join(frozen, params), trained)
    # Without adapters all is trained.
    assert_equal_bits(lora.split(base)[0], base)
    assert lora.split(base)[1] == {}
    assert_equal_bits(lora.join({}, base), base)
    assert lora.join({"a": 1, "b": {"c": 2}}, {"b": {"c": 3, "d": 4}}) == {"a": 1, "b": {"c": 3, "d": 4}}


def test_at_first_the_model_is_the_base(base):
    tokens = make_batch()["tokens"][0]
    np.testing.assert_array_equal(logits(lora.add(base, RANK, 6.0, ALL, KEY), tokens), logits(base, tokens))


def test_merged_equals_unmerged(base, trained):
    tokens, merged = make_batch()["tokens"][0], lora.merge(trained)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, base)
    assert np.abs(logits(trained, tokens) - logits(base, tokens)).max() > 0.1
    np.testing.assert_allclose(logits(trained, tokens), logits(merged, tokens), atol=1e-5)
    for name, x, y in zip(names(base), jax.tree.leaves(base), jax.tree.leaves(merged), strict=True):
        assert np.array_equal(x, y) == (not name.endswith("/kernel")), name
    o, merged_o = trained["layers_1"]["attention"]["o"], merged["layers_1"]["attention"]["o"]["kernel"]
    by_hand = np.float64(o["kernel"]) + 2.0 * np.float64(o["lora_a"]) @ np.float64(o["lora_b"])
    np.testing.assert_allclose(merged_o, by_hand, atol=1e-6)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_gradient_is_that_of_the_merged_formula(trained, remat):
    batch, (params, frozen) = make_batch(), lora.split(trained)
    objective = objectives.NextToken(CONFIG, remat=remat)
    loss, _, _, grads = jax.jit(finetune_step.accumulated_gradients, static_argnums=0)(objective, params, frozen, batch)
    plain, one = objectives.NextToken(CONFIG), {name: array[0] for name, array in batch.items()}

    def formula(params):
        return plain(lora.merge(lora.join(frozen, params)), {}, one)[0]

    right, right_grads = jax.jit(jax.value_and_grad(formula))(params)
    assert float(loss) == pytest.approx(float(right), rel=1e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(right_grads), strict=True):
        assert np.linalg.norm(y) > 1e-3
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_no_gradient_of_a_kernel_is_computed(base, remat):
    """Neither dW nor W + scale A B: adapters of rank 1 save most of the FLOPs of the kernels' gradients."""
    objective, batch = objectives.NextToken(CONFIG, remat=remat), make_batch()
    gradient = functools.partial(finetune_step.accumulated_gradients, objective)
    kernels = [leaf for name, leaf in zip(names(base), jax.tree.leaves(base), strict=True) if "kernel" in name]

    def flops(params, frozen):
        program = jax.jit(lambda params, frozen: gradient(params, frozen, batch))
        return program.lower(params, frozen).cost_analysis()["flops"]

    kernel_gradients = 2 * batch["tokens"].size * sum(kernel.size for kernel in kernels)
    saved = flops(base, {}) - flops(*lora.split(lora.add(base, 1, 6.0, ALL, KEY)))
    assert saved > 0.85 * kernel_gradients


ADAM = optimizer.OptimizerConfig(weight_decay=0.1, clip_norm=1.0)


def test_training_lowers_the_loss_and_leaves_the_base(base):
    """As wide as the kernels, adapters learn a fixed problem; what is frozen keeps every bit."""
    before = jax.tree.map(np.array, base)
    params, frozen = lora.split(lora.add(base, 32, 32.0, ALL, KEY))
    objective, batch, losses = objectives.NextToken(CONFIG), make_batch(seed=5), []
    state = finetune_step.init_state(params, optimizer.make_optimizer(ADAM))
    for _ in range(20):
        step = train_program.train_step_program(state)
        state, metrics = step(objective, ADAM, state, frozen, batch, np.float32(2e-2))
        losses.append(float(metrics["loss"]))
    assert losses[0] > 3.0
    assert losses[-1] < 0.5
    assert_equal_bits(base, before)
    merged = lora.merge(lora.join(frozen, state.params))
    loss, weight, _ = objective(merged, {}, {name: array[0] for name, array in batch.items()})
    assert float(loss / weight) < 0.5
    for name, x, y in zip(names(base), jax.tree.leaves(merged), jax.tree.leaves(before), strict=True):
        assert np.array_equal(x, y) == (not name.endswith("/kernel")), name


def test_optimizer_state_is_as_small_as_the_adapters(base):
    params, _ = lora.split(lora.add(base, RANK, 6.0, ALL, KEY))
    state = finetune_step.init_state(params, optimizer.make_optimizer(ADAM))
    assert max(leaf.size for leaf in jax.tree.leaves(state)) == RANK * CONFIG.intermediate_size
    whole, adapters = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state, params))
    assert whole == 3 * adapters + 2  # Adam's two moments, and two counters


def test_a_base_in_bfloat16(base, trained):
    """Matrices are rounded, vectors and adapters are not, and the logits are those of the rounded base."""
    params, frozen = lora.split(trained)
    short = in_precision(frozen, jnp.bfloat16)
    for name, leaf in zip(names(short), jax.tree.leaves(short), strict=True):
        assert (leaf.dtype == jnp.bfloat16) == (name.endswith("kernel") or name == "embedding"), name
    rounded = in_precision(short, jnp.float32)
    tokens = make_batch()["tokens"][0]
    np.testing.assert_allclose(logits(lora.join(short, params), tokens), logits(lora.join(rounded, params), tokens),
                               atol=1e-5)
    as_loaded = in_precision(frozen, jnp.float32)
    for x, y in zip(jax.tree.leaves(as_loaded), jax.tree.leaves(frozen), strict=True):
        assert x is y  # no second base in memory
    assert {leaf.dtype for leaf in jax.tree.leaves(lora.merge(lora.join(short, params)))
            if leaf.ndim > 1} == {jnp.dtype("float32"), jnp.dtype("bfloat16")}


# Devices


class FakeMesh:
    """A mesh's shape without its devices."""

    shape = {"data": 1, "fsdp": 2, "tensor": 2}  # noqa: RUF012


def test_adapters_lie_like_their_kernels(base, monkeypatch):
    monkeypatch.setattr(placement_lib, "NamedSharding", lambda mesh, spec: spec)
    placement = Placement(FakeMesh(), CONFIG)
    for path in lora.target_paths(base, ALL):
        for layout in ("train", "decode"):
            kernel, a, b = (placement.param_sharding(re.sub("kernel$", name, path), layout)
                            for name in ("kernel", "lora_a", "lora_b"))
            assert (a[0], a[1]) == (kernel[0], None), path
            assert (b[0], b[1]) == (None, kernel[1]), path


_ON_DEVICES = """
import functools, jax, json, optax
import numpy as np
import test_lora as t
from ilf_jax.models import lora, transformer
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.steps import finetune_step
from ilf_jax.training import objectives

def run(place, put):
    whole = lora.add(transformer.init_params(t.CONFIG, jax.random.key(0)), 4, 8.0, t.ALL, t.KEY)
    params, frozen = lora.split(whole)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32), params)
    step = jax.jit(functools.partial(finetune_step.train_step, objectives.NextToken(t.CONFIG), optax.identity()))
    state = place(finetune_step.init_state(place(params), optax.identity()))
    state, metrics = step(state, place(frozen), put(t.make_batch(count=8)), np.float32(0.5))
    return jax.device_get((metrics, lora.merge(lora.join(frozen, state.params)))), state

placement = Placement(sharding.make_mesh(2, 2, 2), t.CONFIG)
one, _ = run(lambda a: a, lambda a: a)
eight, state = run(lambda a: placement.params(a, "train"), lambda a: placement.batch(a, axis=1))
pairs = zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True)
gaps = [float(np.max(np.abs(x - y) / np.maximum(1, np.abs(y)))) for x, y in pairs]
print(json.dumps([max(gaps), str(state.params["layers_0"]["mlp"]["down"]["lora_a"].sharding.spec)]))
"""


def test_eight_devices_equal_one():
    env = {**conftest.several_devices(8), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
           "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.path.dirname(conftest.__file__), os.getcwd()])}
    done = subprocess.run([sys.executable, "-c", _ON_DEVICES], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    gap, spec = json.loads(done.stdout.splitlines()[-1])
    assert gap < 1e-5
    assert "tensor" in spec


# Whole runs


@pytest.fixture
def config(tiny_config, tiny_run):
    c = tiny_config
    c.policy.tokenizer = f"hf:{tiny_run[1] / 'tokenizer'}"
    c.iterations, c.finetune.init, c.finetune.lora_rank, c.finetune.lora_alpha = 2, "previous", 2, 4.0
    c.finetune.epochs, c.finetune.dev_fraction, c.finetune.patience, c.finetune.learning_rate = 2, 0.3, 2, 1e-2
    return c


class _StopHereError(BaseException):
    pass


def saved_params(folder):
    shapes = transformer.param_shapes(checkpoint_io.read_config(f"orbax:{folder}"))
    return checkpoint.load_model(folder, shapes)


def records(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if p.name != "performance.jsonl"}


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_with_adapters_is_resumed(config, tmp_path, monkeypatch, precision):
    """Stopped after each training checkpoint in turn: the same records and params as a run that never stopped."""
    config.finetune.lora_base_precision = precision
    ilf_jax.run(config, tmp_path / "whole")
    original, sizes, stops = checkpoint.TrainingCheckpoints.save, [], []

    def save_and_stop(self, step, state, **facts):
        original(self, step, state, **facts)
        sizes.append(max(leaf.size for leaf in jax.tree.leaves(state)))
        if (self._folder, step) not in stops:
            stops.append((self._folder, step))
            raise _StopHereError

    monkeypatch.setattr(checkpoint.TrainingCheckpoints, "save", save_and_stop)
    for _ in range(20):
        try:
            ilf_jax.run(config, tmp_path / "run")
            break
        except _StopHereError:
            continue
    assert len(stops) >= 4
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    for k in (1, 2):
        ours, theirs = (saved_params(tmp_path / name / f"iteration_{k:03d}/checkpoint") for name in ("run", "whole"))
        assert_equal_bits(ours, theirs)
    kernel = theirs["layers_0"]["mlp"]["up"]["kernel"]
    assert max(sizes) == 2 * max(kernel.shape)  # rank 2: a checkpoint holds adapters only
    before = saved_params(tmp_path / "run/iteration_001/checkpoint")
    for name, x, y in zip(names(before), jax.tree.leaves(before), jax.tree.leaves(theirs), strict=True):
        # Whatever the base's precision while training: what is not trained keeps every bit.
        assert np.array_equal(x, y) == (not re.search(ALL, name)), name


@pytest.mark.usefixtures("quick_compiles")
def test_only_the_lower_precision_is_in_memory_while_training(config, tmp_path, monkeypatch):
    config.finetune.lora_base_precision, config.iterations = "bfloat16", 1
    original, found = train_program.train_step_program, []

    def look(objective, optimizer_config, state, frozen, *rest):
        table = frozen["embedding"].shape
        mine = [a for a in jax.live_arrays() if a.shape == table and id(a) not in before]
        found.append({str(a.dtype) for a in mine})
        return original(state)(objective, optimizer_config, state, frozen, *rest)

    look.lower = lambda objective, optimizer_config, state, *rest: original(state).lower(
        objective, optimizer_config, state, *rest)
    before = {id(a) for a in jax.live_arrays()}
    monkeypatch.setattr(train_program, "train_step_program", lambda state, remat: look)
    ilf_jax.run(config, tmp_path / "run")
    assert found and all(dtypes == {"bfloat16"} for dtypes in found)


@pytest.mark.usefixtures("quick_compiles")
def test_the_run_is_exported_as_an_ordinary_model(config, tmp_path):
    from safetensors.numpy import load_file

    config.iterations = 1
    ilf_jax.run(config, tmp_path / "run")
    export_policy.export(tmp_path / "run", 1, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    assert tensors and not [name for name in tensors if "lora" in name]


@pytest.mark.parametrize(("changes", "words"), [
    ({"lora_rank": 2, "lora_targets": "qkv"}, ["config.finetune.lora_targets='qkv'", "matches none"]),
    ({"lora_rank": 2, "lora_targets": "["}, ["config.finetune.lora_targets='['", "not a regular expression"]),
    ({"lora_rank": -1}, ["config.finetune.lora_rank", "at least 0"]),
    ({"lora_rank": 0, "lora_base_precision": "bfloat16"}, ["config.finetune.lora_base_precision", "lora_rank"]),
    ({"lora_base_precision": "int8"}, ["config.finetune.lora_base_precision", "'bfloat16'"]),
])
def test_what_cannot_be_is_refused_before_the_run(config, tmp_path, changes, words):
    config.finetune.update(changes)
    with pytest.raises(InputError) as error:
        ilf_jax.run(config, tmp_path / "run")
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "run").exists()
