"""Checkpoints and training states with damage anywhere: what was saved, an older state, or an error that says where."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import Outcomes, counted, damaged

from ilf_jax.errors import InputError
from ilf_jax.runtime import checkpoint
from ilf_jax.runtime.digests import DamagedError

FACTS = {"family": "llama", "num_layers": 2}
OUTCOMES = {name: Outcomes() for name in ("models", "training states")}
counts = counted(**OUTCOMES)


def tree(seed):
    rng = np.random.default_rng(seed)
    return {"layers_0": {"kernel": jnp.asarray(rng.standard_normal((16, 24)), jnp.float32),
                         "scale": jnp.asarray(rng.standard_normal(24), jnp.bfloat16)},
            "step": jnp.asarray(seed, jnp.int32)}


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(
        *(map(np.asarray, jax.tree.leaves(t)) for t in (a, b)), strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoint.save_model(folder, tree(1), FACTS).result()
    return folder


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states") / "state"
    saved = checkpoint.TrainingCheckpoints(folder, keep=2)
    with saved.writing():
        for step in (1, 2, 3):
            saved.save(step, tree(step), log=f"{step}")
    assert {p.name for p in folder.iterdir()} == {"2", "3"}
    return folder


def damage(folder, data):
    """One byte replaced, bytes cut out, or the end lost, in one file; the file's name."""
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)))
    path.write_bytes(damaged(data, path.read_bytes(), ("byte", "byte", "cut out", "end")))
    return path


def copied(folder, tmp_path):
    target = tmp_path / "copy" / folder.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


@given(data=st.data())
def test_a_model_is_what_was_saved_or_refused(model, tmp_path_factory, data):
    folder = copied(model, tmp_path_factory.getbasetemp())
    damage(folder, data)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree(1))
    try:
        facts, params = checkpoint.read_model_facts(folder), checkpoint.load_model(folder, shapes)
    except InputError as e:
        assert str(folder) in str(e)
        OUTCOMES["models"]["InputError"] += 1
    else:
        assert facts == FACTS and same(params, tree(1))
        OUTCOMES["models"]["equal"] += 1


@given(data=st.data())
def test_a_training_goes_on_from_a_state_that_was_saved(states, tmp_path_factory, data):
    folder = copied(states, tmp_path_factory.getbasetemp())
    damage(folder / "3", data)
    step, state, facts = checkpoint.TrainingCheckpoints(folder).restore_newest(tree(0))
    assert step in (2, 3) and same(state, tree(step)) and facts["log"] == str(step)
    OUTCOMES["training states"]["equal" if step == 3 else "older state taken"] += 1


@pytest.mark.versions
@pytest.mark.fast
def test_a_flipped_bit_is_found_and_the_older_state_taken(states, tmp_path, caplog):
    folder = copied(states, tmp_path)
    (path,) = [p for p in (folder / "3").rglob("d/*") if p.stat().st_size > 1000 and "process" in str(p)][:1]
    content = bytearray(path.read_bytes())
    at = bytes(content).find(np.asarray(tree(3)["layers_0"]["kernel"])[3].tobytes())
    assert at > 0
    content[at + 2] ^= 1
    path.write_bytes(content)
    shutil.copytree(folder / "3", tmp_path / "damaged")
    step, state, _ = checkpoint.TrainingCheckpoints(folder).restore_newest(tree(0))
    assert step == 2 and same(state, tree(2))
    assert "state/3: is damaged: the array layers_0/kernel is not what was written; going on from the state of step 2" \
        in caplog.text
    assert not (folder / "3").exists()  # or the next state would push the intact one out
    shutil.rmtree(folder / "2")
    shutil.move(tmp_path / "damaged", folder / "3")
    with pytest.raises(DamagedError, match=r"state/3: is damaged: the array layers_0/kernel .*; restore it .*delete"):
        checkpoint.TrainingCheckpoints(folder).restore_newest(tree(0))


@pytest.mark.fast
def test_a_checkpoint_without_digests_is_refused(tmp_path):
    with checkpoint._context(tmp_path):
        checkpoint.ocp.save(pathlib.Path(tmp_path / "params"), tree(1))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree(1))
    with pytest.raises(DamagedError, match=r"params: is damaged: it lacks 'crc32_of_the_rest'"):
        checkpoint.load_model(tmp_path, shapes)


@pytest.mark.fast
def test_what_is_read_in_bfloat16_is_checked_too(model, tmp_path):
    folder = copied(model, tmp_path)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(
        a.shape, jnp.bfloat16 if a.dtype == jnp.float32 else a.dtype), tree(1))
    loaded = checkpoint.load_model(folder, shapes)["layers_0"]["kernel"]
    assert loaded.dtype == jnp.bfloat16
    (path,) = [p for p in folder.rglob("d/*") if p.stat().st_size > 1000 and "process" in str(p)][:1]
    content = bytearray(path.read_bytes())
    content[bytes(content).find(np.asarray(tree(1)["layers_0"]["kernel"])[3].tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="kernel"):
        checkpoint.load_model(folder, shapes)
