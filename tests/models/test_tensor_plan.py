"""A config is compared with the file's header before anything is traced or read; NaN is found by the tensor's name."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, tensor_plan, transformer
from ilf_jax.models.architecture import SHAPES

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    config = dataclasses.replace(SHAPES["tiny"], vocab_size=40)
    params = jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), transformer.param_shapes(config))
    checkpoint_io.save_hf(config, params, folder, shard_bytes=30_000)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(made, tmp_path):
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000; expected a whole number from 1 to 512"),
    ({"num_hidden_layers": 500}, "the config says 500 layers, but there are tensors of 2"),
    ({"num_hidden_layers": 1}, "the config says 1 layers, but there are tensors of 2"),
    ({"vocab_size": 2**31 - 1}, "a matrix of vocab_size = 2147483647 times hidden_size = 32"),
    ({"hidden_size": 2**30}, "times hidden_size = 1073741824"),
    ({"intermediate_size": 10**9}, "a matrix of intermediate_size"),
    ({"num_attention_heads": 2**30, "num_key_value_heads": 2**30}, "a matrix of num_heads x head_dim"),
    ({"num_key_value_heads": "1"}, "num_key_value_heads = '1'; expected a whole number"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'; expected true or false"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan; expected a number above 0"),
    ({"rope_parameters": {"rope_theta": -1}}, "rope_theta = -1; expected a number above 0"),
    ({"rope_scaling": {"rope_type": "linear"}, "rope_parameters": None}, "'factor' is missing"),
    ({"vocab_size": 39}, r"embed_tokens.weight has shape \(40, 32\), but by the config it holds embedding \(39, 32\)"),
])
def test_config_and_header_differ(folder, changes, words, monkeypatch):
    edit(folder / "config.json", **changes)
    begin = time.monotonic()
    for read in (checkpoint_io.read_config, checkpoint_io.load_params):
        with pytest.raises(InputError, match=words) as error:
            read(f"hf:{folder}")
        assert str(folder) in str(error.value)
    assert time.monotonic() - begin < 5


def test_huge_configs_are_not_traced(folder, monkeypatch):
    monkeypatch.setattr(tensor_plan, "_flat_shapes", None)  # calling it would raise TypeError
    edit(folder / "config.json", num_hidden_layers=500)
    with pytest.raises(InputError, match="500 layers"):
        checkpoint_io.read_config(f"hf:{folder}")


@pytest.mark.parametrize(("weight_map", "words"), [
    (None, "weight_map = None; expected an object"), ([], "weight_map = []; expected an object"), ({}, "expected an"),
    ({"a": 3}, "weight_map.a = 3; expected the name of a file beside it"),
    ({"a": "../x.safetensors"}, "expected the name of a file beside it"),
    ({"a": "gone.safetensors"}, "gone.safetensors: missing"),
    ({"a": "model-00001-of-00002.safetensors"}, "lacks the tensor a, which model.safetensors.index.json says is in it"),
])
def test_index(folder, weight_map, words):
    first = sorted(folder.glob("model-*"))[0]
    first.rename(folder / "model-00001-of-00002.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(InputError) as error:
        checkpoint_io.read_config(f"hf:{folder}")
    assert words in str(error.value), error.value


def test_a_tensor_in_two_files(folder):
    first, second, *_ = sorted(folder.glob("model-*"))
    tensors = load_file(first)
    save_file({**load_file(second), **tensors}, second)
    with pytest.raises(InputError, match=f"tensor {sorted(tensors)[0]}|is in {first.name}, too"):
        checkpoint_io.read_config(f"hf:{folder}")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_weights(folder, bad):
    name = "model.layers.1.mlp.up_proj.weight"
    file = next(f for f in folder.glob("model-*") if name in load_file(f))
    tensors = load_file(file)
    tensors[name][3, 5] = bad
    save_file(tensors, file)
    checkpoint_io.read_config(f"hf:{folder}")  # reads no tensors
    with pytest.raises(InputError, match=f"tensor {name} has 1 of 3072 elements that are NaN"):
        checkpoint_io.load_params(f"hf:{folder}")


def test_nan_weights_gguf(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    for key, value in {"block_count": 1, "context_length": 4, "embedding_length": 8, "feed_forward_length": 16,
                       "attention.head_count": 2}.items():
        writer.add_uint32(f"gpt2.{key}", value)
    writer.add_float32("gpt2.attention.layer_norm_epsilon", 1e-5)
    layer = {"attn_norm": (8,), "ffn_norm": (8,), "attn_qkv": (24, 8), "attn_output": (8, 8), "ffn_up": (16, 8),
             "ffn_down": (8, 16)}
    shapes = {f"blk.0.{n}.weight": s for n, s in layer.items()} | {f"blk.0.{n}.bias": s[:1] for n, s in layer.items()}
    shapes |= {"token_embd.weight": (5, 8), "position_embd.weight": (4, 8), "output_norm.weight": (8,),
               "output_norm.bias": (8,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.full(shape, np.nan if name == "blk.0.ffn_up.bias" else 1.0, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"m\.gguf: tensor blk\.0\.ffn_up\.bias has 16 of 16 elements that are NaN"):
        checkpoint_io.load_params(f"gguf:{path}")
