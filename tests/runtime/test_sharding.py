"""Eight devices = one: training, generation and scoring on meshes of every kind; errors name what is allowed."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import several_devices
from jax.sharding import Mesh, PartitionSpec

from ilf_jax.errors import InputError
from ilf_jax.models import placement, transformer
from ilf_jax.models.architecture import RopeScaling, small_shape
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding

# Two shards do not divide 3 kv heads; they do divide 24 query heads.
CONFIG = dataclasses.replace(
    small_shape(48, 1, 64), num_heads=24, num_kv_heads=3, head_dim=4, intermediate_size=64, qkv_bias=True,
    mlp_bias=True, gated_mlp=False, tied_embeddings=False,
)
# One KV head for all queries: fewer than `tensor`.
FEW_KV_HEADS = dataclasses.replace(small_shape(64, 2, 64), num_heads=8, num_kv_heads=1, head_dim=8)
# What families other than Llama's do: norms over heads that lie on several devices, caps, scales, windows, NoPE.
OTHERWISE = dataclasses.replace(
    small_shape(64, 2, 64), num_heads=8, num_kv_heads=4, head_dim=8, pre_norms=False, post_norms=True,
    qk_norm_whole=True, attention_softcap=1.0, residual_scale=0.5, logit_softcap=5.0, sliding_window=4,
    sliding_layers=(1,), unrotated_layers=(0,), rotary_dim=6, rope_scaling=RopeScaling("yarn", 4.0),
)
STACKED = small_shape(64, 5, 64)
CONFIGS = {"odd": CONFIG, "few kv heads": FEW_KV_HEADS, "otherwise": OTHERWISE, "stacked": STACKED}
# Rows alone, params alone, and both with heads; what differs by architecture shows where all three are divided.
MESHES = {"odd": [(8, 1, 1), (1, 8, 1), (2, 2, 2)], "few kv heads": [(2, 2, 2)], "otherwise": [(2, 2, 2)],
          "stacked": [(2, 2, 2)]}

SCRIPT = '''
import functools, json
import jax, numpy as np, optax
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.models.compute import FLOAT32, ComputeOptions
from ilf_jax.errors import InputError
from ilf_jax.models import layer_stack, transformer
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.steps import finetune_step, refine_step, score_step
from ilf_jax.training import objectives, packing
from tests_sharding import CONFIG, IN_STACKS, MESHES

assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
init = transformer.init_params(CONFIG, jax.random.key(0))
init = jax.tree.map(lambda a: np.asarray(a) + 0.1 * rng.normal(size=a.shape).astype(np.float32), init)
V = CONFIG.vocab_size
texts = [(rng.integers(0, V, 3), rng.integers(0, V, rng.integers(1, 8))) for _ in range(30)]
examples = [packing.training_example(*text, 3, prompt_weight=0.1) for text in texts]
rows = packing.pack([len(e) for e in examples], 24, merge=True)
parts = [packing.assemble(examples, rows[a * 8 : a * 8 + 8], num_rows=8, row_length=24, num_targets=24) for a in (0, 1)]
assert 8 < len(rows) <= 16
train_batch = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
prompts, lengths = rng.integers(0, V, (8, 16)).astype(np.int32), np.array([16, 3, 1, 0, 7, 9, 12, 5], np.int32)
keys = decode.candidate_keys(0, 1, "refine", list("abcdefgh"), range(2))
ends = np.arange(V) % 7 == 0
suffixes, answers = rng.integers(0, V, (8, 2, 6)).astype(np.int32), rng.integers(0, V, (8, 2, 2, 2)).astype(np.int32)
offsets = np.broadcast_to(np.array([0, 1, 2, 3, 2, 3], np.int32), (8, 2, 6))
leaves = np.broadcast_to(np.array([0, 0, 1, 1, 2, 2], np.int32), (8, 2, 6))
last = np.broadcast_to(np.array([3, 5], np.int32), (8, 2, 2))
sgd = optax.identity()  # times -0.5: the params after a step are the gradients, scaled and shifted
generate = jax.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens", "compute"))
answer_logits = jax.jit(score_step.answer_logits_step, static_argnames=("config", "compute"))


@functools.partial(jax.jit, static_argnums=0)
def train(objective, params, batch):
    return finetune_step.train_step(objective, sgd, finetune_step.init_state(params, sgd), {}, batch, 0.5)


def everything(train_params, decode_params, put, compute):
    objective = objectives.NextToken(CONFIG, compute, remat="full" if compute.rows else "none")
    state, metrics = train(objective, train_params, put(train_batch, 1))
    tokens = put((prompts, lengths, keys), 0)
    refined, sampled = (
        generate(CONFIG, decode_params, *tokens, sampling, ends, max_new_tokens=5, compute=compute)
        for sampling in (make_sampling(0.0, 0, 1.0), make_sampling(1.0, 0, 0.9))
    )
    questions = put((prompts, lengths, suffixes, offsets, leaves, last, answers), 0)
    logits = answer_logits(CONFIG, decode_params, *questions, compute=compute)
    spread = next(of for name, of in state.params.items() if name.startswith("layers_0"))["mlp"]["up"]["kernel"]
    return jax.device_get({
        "metrics": metrics, "params": layer_stack.one_by_one(state.params), "greedy": refined, "sampled": sampled,
        "answer_logits": logits,
    }), str(spread.sharding.spec if hasattr(spread.sharding, "spec") else None)


right, _ = everything(init, init, lambda arrays, axis: arrays, FLOAT32)
report = {"moved": float(np.abs(right["params"]["embedding"] - init["embedding"]).max()),
          "drawn": int(right["sampled"].mask_BxCxL.sum()), "meshes": {}, "errors": {}}
for sizes in MESHES:
    placement = Placement(sharding.make_mesh(*sizes), CONFIG)
    compute = ComputeOptions(rows=sharding.batch_sharding(placement.mesh))
    laid = layer_stack.stacked(CONFIG, init) if IN_STACKS else init
    params = placement.params(laid, "train"), placement.params(laid, "decode")
    found, spec = everything(*params, placement.batch, compute)
    worst = {}
    for name in right:
        pairs = zip(jax.tree.leaves(found[name]), jax.tree.leaves(right[name]), strict=True)
        pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
        worst[name] = max(float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)))) for a, b in pairs)
    report["meshes"][str(sizes)] = {"worst": worst, "spec": spec}
for sizes in ((3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (-1, 16, 1), (2, 2, -1), (-1, 4, 1), (2, -1, 2)):
    try:
        report["errors"][str(sizes)] = list(sharding.make_mesh(*sizes).devices.shape)
    except InputError as error:
        report["errors"][str(sizes)] = str(error)
if IN_STACKS:  # the last mesh's params
    long = {name: np.zeros((1, 8, 512, *a.shape[3:]), a.dtype) for name, a in train_batch.items()}

    def temporaries():
        objective = objectives.NextToken(CONFIG, compute, remat="full")
        gradient = jax.jit(lambda params, batch: finetune_step.accumulated_gradients(objective, params, {}, batch))
        return gradient.lower(params[0], placement.batch(long, 1)).compile().memory_analysis().temp_size_in_bytes

    report["temporaries"] = [temporaries()]
    ComputeOptions.to_keep = lambda self, x: x
    report["temporaries"].append(temporaries())
print(json.dumps(report))
'''


@pytest.fixture(scope="module", params=CONFIGS)
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    (folder / "tests_sharding.py").write_text(
        "from ilf_jax.models.architecture import ModelConfig, RopeScaling\n"
        f"CONFIG = {CONFIGS[request.param]!r}\nMESHES = {MESHES[request.param]!r}\n"
        f"IN_STACKS = {request.param == 'stacked'}\n"
    )
    env = {**several_devices(8), "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", ["metrics", "params", "greedy", "sampled", "answer_logits"])
def test_eight_devices_equal_one(report, what):
    assert report["moved"] > 1e-3
    assert report["drawn"] > 20
    for sizes, found in report["meshes"].items():
        assert found["worst"][what] < 1e-5, sizes


def test_params_stay_where_they_were_put(report):
    specs = {sizes: found["spec"] for sizes, found in report["meshes"].items()}
    assert "fsdp" in specs.get("(1, 8, 1)", "fsdp")
    assert "fsdp" in specs["(2, 2, 2)"]
    assert "tensor" in specs["(2, 2, 2)"]


@pytest.mark.parametrize("report", ["stacked"], indirect=True)
def test_activations_that_are_kept_are_sharded_over_tensor(report):
    """Layers under a scan keep their inputs: of 5 layers, for 2 rows a device of 512 tokens and 64 floats; or half."""
    kept, whole = report["temporaries"]
    assert whole - kept > 0.25 * 5 * 2 * 512 * 64 * 4  # less than half of it, for other buffers take their place


def test_mesh_sizes(report):
    found = report["errors"]
    assert found["(2, 2, -1)"] == [2, 2, 2]
    assert found["(-1, 4, 1)"] == [2, 4, 1]
    assert found["(2, -1, 2)"] == [2, 2, 2]
    for sizes in ("(3, 1, 1)", "(-1, 3, 1)", "(-1, -1, 1)", "(0, 1, 1)", "(-1, 16, 1)"):
        assert "8 devices" in found[sizes], sizes
        assert "config.mesh" in found[sizes]
        assert "-1" in found[sizes]
    assert "data=-1, fsdp=3" in found["(-1, 3, 1)"]  # what the user wrote


class FakeMesh:
    """A mesh's shape without its devices."""

    def __init__(self, data, fsdp, tensor):
        self.shape = {"data": data, "fsdp": fsdp, "tensor": tensor}


@pytest.mark.parametrize(
    ("changes", "tensor", "words"),
    [
        ({}, 16, ["query heads (24)", "1, 2, 4, 8"]),
        ({"num_heads": 6, "num_kv_heads": 3}, 4, ["query heads (6)", "1, 2"]),
        ({"intermediate_size": 63}, 2, ["MLP width (63)", "1"]),
    ],
)
def test_a_tensor_axis_that_does_not_divide_is_refused(changes, tensor, words):
    with pytest.raises(InputError) as error:
        Placement(FakeMesh(1, 1, tensor), dataclasses.replace(CONFIG, **changes))
    assert f"config.mesh.tensor={tensor}" in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert str(error.value).endswith(f"these do: {words[-1]}")


def one_device(config=CONFIG):
    return Placement(Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES), config)


def test_every_matrix_is_sharded_in_training_and_whole_along_fsdp_in_decoding():
    placement = one_device()
    for path, leaf in jax.tree_util.tree_leaves_with_path(transformer.param_shapes(CONFIG)):
        name = sharding.path_name(path)
        train, decode = (placement.param_sharding(name, layout).spec for layout in ("train", "decode"))
        if leaf.ndim == 2:
            assert "fsdp" in train, name
            assert "tensor" in train, name
            assert "tensor" in decode, name
        assert "fsdp" not in decode, name
        assert len(train) <= leaf.ndim


def test_optimizer_state_lies_like_the_params():
    """Adam's moments are as large as the params; the embeddings' must not be held whole on every device."""
    import optax

    placement = one_device()
    params = transformer.param_shapes(CONFIG)
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    found = {sharding.path_name(path): s.spec
             for path, s in jax.tree_util.tree_leaves_with_path(placement.shardings(state, "train"))}
    for name in ("embedding", "unembedding", "layers_0/attention/q/kernel"):
        (spec,) = [spec for path, spec in found.items() if path.endswith(f"mu/{name}")]
        assert spec == placement.param_sharding(name, "train").spec, name


def test_few_kv_heads_are_held_whole(monkeypatch):
    monkeypatch.setattr(placement, "NamedSharding", lambda mesh, spec: spec)
    few = Placement(FakeMesh(1, 2, 2), CONFIG)
    assert few.param_sharding("layers_0/attention/k/kernel", "train") == PartitionSpec("fsdp", None)
    assert few.param_sharding("layers_0/attention/v/bias", "decode") == PartitionSpec(None)
    assert few.param_sharding("layers_0/attention/q/kernel", "train") == PartitionSpec("fsdp", "tensor")
    odd = Placement(FakeMesh(1, 2, 2), dataclasses.replace(CONFIG, vocab_size=65))
    assert odd.param_sharding("embedding", "train") == PartitionSpec(None, "fsdp")
    enough = Placement(FakeMesh(1, 2, 3), dataclasses.replace(CONFIG, intermediate_size=66, vocab_size=66))
    assert enough.param_sharding("layers_0/attention/k/kernel", "train") == PartitionSpec("fsdp", "tensor")
    assert Placement(FakeMesh(1, 5, 1), CONFIG).param_sharding("embedding", "train") == PartitionSpec(
        "tensor", None
    )
