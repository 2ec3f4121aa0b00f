"""The rule of the pool: checkpoints are loaded once, training takes params out, a checkpoint replaces the last one."""

import os

import pytest

import ilf_jax
from ilf_jax.inference.model_pool import ModelPool
from ilf_jax.models import checkpoint_io
from ilf_jax.models.architecture import SHAPES

pytestmark = pytest.mark.usefixtures("quick_compiles")
BASE = "init:tiny"


@pytest.mark.parametrize(("init", "loads"), [
    ("base", [BASE, BASE]),  # the first training took it out of the pool
    ("previous", [BASE]),  # the second training takes what the first one put in
])
def test_each_checkpoint_is_loaded_once_until_training_takes_it(tiny_config, tmp_path, monkeypatch, init, loads):
    loaded, taken, put_in, pools = [], [], [], []
    load, take, put = ModelPool._load, ModelPool.take, ModelPool.put

    def counted_load(pool, uri, layout, dtype):
        loaded.append(uri)
        return load(pool, uri, layout, dtype)

    def checked_take(pool, uri):
        params = take(pool, uri)
        assert uri not in pool._params
        taken.append(uri)
        return params

    def checked_put(pool, uri, params, architecture, replaces=None):
        put(pool, uri, params, architecture, replaces)
        assert uri in pool._params and replaces not in pool._params
        put_in.append(uri)
        pools.append(pool)

    for name, method in (("_load", counted_load), ("take", checked_take), ("put", checked_put)):
        monkeypatch.setattr(ModelPool, name, method)
    tiny_config.iterations, tiny_config.finetune.init = 2, init
    tiny_config.evaluate.target_nll = False
    ilf_jax.run(tiny_config, tmp_path / "run")
    first, second = put_in
    assert loaded == loads
    assert taken == [BASE, BASE if init == "base" else first]
    assert pools[0] is pools[1] and set(pools[0]._params) == {second}


@pytest.mark.fast
def test_tokenizers_for_a_model_are_made_once():
    class Limited:
        def for_embeddings(self, count, uri):
            return object()

    pool = ModelPool(None, 0)
    pool._tokenizers["t"] = Limited()
    first = pool.tokenizer_for("t", 5, "m")
    assert pool.tokenizer_for("t", 5, "m") is first and pool.tokenizer_for("t", 6, "m") is not first


def test_headers_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    model, read = SHAPES["tiny"], []
    checkpoint_io.save_hf(model, checkpoint_io.random_params(model, 0), tmp_path)
    original = checkpoint_io._hf_source
    monkeypatch.setattr(checkpoint_io, "_hf_source", lambda path: read.append(path) or original(path))
    assert checkpoint_io.read_config(f"hf:{tmp_path}") == checkpoint_io.read_config(f"hf:{tmp_path}")
    assert len(read) == 1
    file = tmp_path / "config.json"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    checkpoint_io.read_config(f"hf:{tmp_path}")
    assert len(read) == 2
