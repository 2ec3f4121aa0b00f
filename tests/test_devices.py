"""Runs on several devices: a stopped one goes on, checkpoints are read on one device, rewards are those of one."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import make_tiny_config, several_devices
from test_reward import with_reward

from ilf_jax import ilf
from ilf_jax.export import export_policy

_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
from conftest import make_tiny_config
from ilf_jax import ilf
from ilf_jax.runtime import checkpoint
c = make_tiny_config()
c.mesh.data, c.mesh.fsdp = 2, 2
for section in (c.draft, c.feedback, c.refine, c.evaluate):
    section.batch_size = 4
c.score.batch_size = c.finetune.batch_size = 4
c.finetune.epochs = 2
if sys.argv[3] == "stop":
    saved = checkpoint.TrainingCheckpoints.save
    def save_and_stop(self, step, state, **facts):
        saved(self, step, state, **facts)
        if step == 2:
            raise SystemExit(7)
    checkpoint.TrainingCheckpoints.save = save_and_stop
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **about: compiled.append(
    about.get("fun_name") if name.endswith("backend_compile_duration") else None))
ilf.run(c, sys.argv[2])
assert compiled.count("jit(_train_step)") == 1
"""


def _start(workdir, mode):
    env = several_devices(4)
    here = pathlib.Path(__file__).parent
    return subprocess.run([sys.executable, "-c", _RUN, str(here), str(workdir), mode], cwd=here.parent, env=env,
                          capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    whole = _start(folder / "whole", "go")
    assert whole.returncode == 0, whole.stderr
    stopped = _start(folder / "stopped", "stop")
    assert stopped.returncode == 7, stopped.stderr
    resumed = _start(folder / "stopped", "go")
    assert resumed.returncode == 0, resumed.stderr
    return folder


def test_resumed_on_four_devices_equals_one_that_was_not_stopped(runs):
    steps = "iteration_001/finetune/steps.jsonl"
    assert (runs / "stopped" / steps).read_bytes() == (runs / "whole" / steps).read_bytes()
    outputs = sorted(p.relative_to(runs / "whole") for p in (runs / "whole").rglob("*-of-*.jsonl"))
    assert outputs
    for path in outputs:
        assert (runs / "stopped" / path).read_bytes() == (runs / "whole" / path).read_bytes(), path


def test_checkpoint_of_four_devices_is_exported_on_one(runs, tmp_path):
    assert len(jax.devices()) == 1
    export_policy.export(runs / "whole", 1, tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").exists()


_ELSEWHERE = """
import dataclasses, pathlib, sys
import jax, numpy as np
from ilf_jax import config as config_lib
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import checkpoint, sharding
from ilf_jax.models import transformer
from ilf_jax.inference import model_pool
from ilf_jax.models.architecture import small_shape, to_facts

config = dataclasses.replace(small_shape(64, 2, 96), num_heads=4, num_kv_heads=2, head_dim=16)
devices, folder = jax.devices(), pathlib.Path(sys.argv[1])
place = lambda sizes, some: Placement(sharding.make_mesh(*sizes, some), config)
first = place((1, 8, 1), devices)
assert not model_pool.compute_of(config_lib.Config(precision="float32"), first.mesh).one_by_one
params = first.params(transformer.init_params(config, jax.random.key(3)), "train")
assert len(params["embedding"].sharding.device_set) == 8 and not params["embedding"].is_fully_replicated
checkpoint.save_model(folder, params, to_facts(config)).result()
tokens = np.arange(24, dtype=np.int32).reshape(8, 3)

@jax.jit
def logits(params, tokens):
    return transformer.unembed(config, params, transformer.forward(config, params, tokens))

right = np.asarray(logits(params, first.batch(tokens)))
for sizes, some in (((2, 2, 2), devices), ((1, 1, 1), devices[:1])):
    for layout in ("train", "decode"):
        other = place(sizes, some)
        shapes = other.with_shardings(transformer.param_shapes(config), layout)
        loaded = checkpoint.load_model(folder, shapes)
        for ours, theirs, shape in zip(*map(jax.tree.leaves, (loaded, params, shapes)), strict=True):
            assert ours.sharding == shape.sharding
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
        np.testing.assert_allclose(np.asarray(logits(loaded, other.batch(tokens))), right, atol=1e-5)
"""


def test_checkpoint_is_restored_onto_other_meshes(tmp_path):
    env = several_devices(8)
    done = subprocess.run([sys.executable, "-c", _ELSEWHERE, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


_REWARDED = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import test_devices
test_devices.rewarded(pathlib.Path(sys.argv[2]), 2)
"""


def rewarded(folder, side):
    """A run with a reward model on side x side devices. Questions on several devices are those of test_sharding.py."""
    c = with_reward(make_tiny_config(), "scalar")
    c.mesh.data = c.mesh.fsdp = side
    c.reward.dev_fraction, c.evaluate.rank = 0.3, True
    for section in (c.draft, c.feedback, c.refine, c.score, c.reward, c.evaluate, c.finetune):
        section.batch_size = 4
    ilf.run(c, folder)


def test_rewards_on_four_devices_are_those_on_one(tmp_path):
    rewarded(tmp_path / "1", 1)
    env = several_devices(4)
    here = pathlib.Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", _REWARDED, str(here), str(tmp_path / "2")], cwd=here.parent, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {side: {(path.parts[-3], path.parts[-2], row["id"]): row
                   for path in (tmp_path / str(side)).glob("iteration_*/*/0*.jsonl")
                   for row in map(json.loads, path.open())} for side in (1, 2)}
    for stage, name in (("reward", "probability"), ("best_of_n", "rewards"), ("score", "scores"), ("rank", "win_rate")):
        one, four = ({key: row[name] for key, row in rows[side].items() if key[1] == stage} for side in (1, 2))
        assert one and one.keys() == four.keys()
        for key, value in one.items():
            np.testing.assert_allclose(four[key], value, atol=1e-3, err_msg=str(key))
        assert len(set(map(str, one.values()))) > 1
    assert {key[0] for key in rows[1] if key[1] == "best_of_n"} == {"iteration_000", "iteration_001"}
