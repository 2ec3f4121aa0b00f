"""GGUF files: metadata of wrong types and sizes, headers with damaged bytes, counts and lengths of 2^60, files cut."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import Outcomes, counted, damaged

from ilf_jax.models import checkpoint_io, gguf_files

gguf = pytest.importorskip("gguf")

OUTCOMES = {"GGUF, metadata": Outcomes(), "GGUF, header bytes": Outcomes(), "GGUF, cut": Outcomes()}
counts = counted(**OUTCOMES)
Kind = gguf.GGUFValueType
RMS = {"block_count": 1, "context_length": 8, "embedding_length": 32, "feed_forward_length": 64,
       "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4}
METADATA = {
    "llama": RMS | {"rope.dimension_count": 16, "vocab_size": 5, "rope.scaling.type": "linear",
                    "rope.scaling.factor": 2.0},
    "qwen2": RMS | {"attention.head_count_kv": 1},
    "gemma3": RMS | {"attention.key_length": 16, "attention.sliding_window": 4,
                     "attention.sliding_window_pattern": [True]},
    "gpt2": {**RMS, "attention.layer_norm_epsilon": 1e-5},
}
VALUES = [
    (Kind.UINT32, n) for n in (0, 1, 2, 3, 6, 10**6, 2**31, 2**32 - 1)
] + [(Kind.INT32, -1), (Kind.UINT64, 2**63), (Kind.INT64, -(2**63)), (Kind.UINT8, 2), (Kind.BOOL, True)] + [
    (Kind.FLOAT32, x) for x in (0.0, -1.0, 0.5, 1e38, float("nan"), float("inf"))
] + [(Kind.FLOAT64, 1e300), (Kind.STRING, ""), (Kind.STRING, "4"), (Kind.STRING, "yarn"),
     (Kind.ARRAY, [1]), (Kind.ARRAY, [1, 2, 3]), (Kind.ARRAY, ["a"]), (Kind.ARRAY, [True] * 40)]


def shapes_of(architecture):
    layer = {"attn_norm": (32,), "ffn_norm": (32,), "attn_output": (32, 32)}
    if architecture == "gpt2":
        layer |= {"attn_qkv": (96, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        shapes = {"token_embd.weight": (5, 32), "position_embd.weight": (8, 32), "output_norm.weight": (32,)}
        biases = {name: (shape[0],) for name, shape in layer.items()}
        shapes["output_norm.bias"] = (32,)
    else:
        keys = 16 if architecture == "qwen2" else 32
        layer |= {"attn_q": (32, 32), "attn_k": (keys, 32), "attn_v": (keys, 32), "ffn_gate": (64, 32),
                  "ffn_up": (64, 32), "ffn_down": (32, 64)}
        if architecture == "gemma3":
            layer |= {"post_attention_norm": (32,), "post_ffw_norm": (32,), "attn_q_norm": (16,), "attn_k_norm": (16,)}
        shapes = {"token_embd.weight": (5, 32), "output_norm.weight": (32,)}
        biases = {"attn_q": (32,), "attn_k": (16,), "attn_v": (16,)} if architecture == "qwen2" else {}
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {f"blk.0.{name}.bias": shape for name, shape in biases.items()}


def write(path, architecture, **values):
    """A GGUF file; `values`: key -> (type, value), or None to leave the key out."""
    writer = gguf.GGUFWriter(path, architecture)
    own = {f"{architecture}.{k}": v for k, v in METADATA[architecture].items()}
    typed = {key: (Kind.get_type(v), v) for key, v in own.items()}
    typed = {k: (Kind.UINT32 if t == Kind.INT32 else t, v) for k, (t, v) in typed.items()}
    for key, given_value in {**typed, **values}.items():
        if key == "general.architecture":
            writer.kv_data[0].pop(key)
        if given_value is not None:
            kind, value = given_value
            writer.add_key_value(key, value, kind, sub_type=None)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c", "d", "e"])
    rng = np.random.default_rng(0)
    for name, shape in shapes_of(architecture).items():
        kind = gguf.GGMLQuantizationType.Q8_0 if "ffn_up.weight" in name else gguf.GGMLQuantizationType.F32
        value = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=METADATA)
def model(request, tmp_path_factory):
    """(architecture, the file's bytes, where its data begin, params by path)."""
    path = tmp_path_factory.mktemp(request.param) / "m.gguf"
    write(path, request.param)
    params = Params(checkpoint_io.load_params(f"gguf:{path}"))
    data = path.read_bytes()
    begin = min(t.data_offset for t in gguf_files.open_gguf(str(path)).tensors.values())
    return request.param, Bytes(data), begin, params


class Bytes(bytes):
    """Hypothesis does not print the values."""

    def __repr__(self):
        return f"{len(self)} bytes"


class Params(dict):
    """Hypothesis does not print the values."""

    def __repr__(self):
        return f"{len(self)} params"


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_equal(value, b[name])
        else:
            same = np.array_equal(value, b[name])
            assert same, name


@given(data=st.data())
def test_metadata(model, data, tmp_path):
    architecture, _, _, params = model
    keys = [f"{architecture}.{k}" for k in METADATA[architecture]] + ["general.alignment", "general.architecture"]
    key = data.draw(st.sampled_from(keys))
    value = data.draw(st.sampled_from([*VALUES, None]))
    write(tmp_path / "m.gguf", architecture, **{key: value})
    with OUTCOMES["GGUF, metadata"].one():
        checkpoint_io.read_config(f"gguf:{tmp_path / 'm.gguf'}")
        loaded = checkpoint_io.load_params(f"gguf:{tmp_path / 'm.gguf'}")
        # A file that says another number of heads has its rows in another order.
        if "head_count" not in key and "dimension_count" not in key:
            assert_equal(loaded, params)


@given(data=st.data())
def test_header_bytes(model, data, tmp_path):
    _, whole, begin, params = model
    last = begin - 32  # what stands between the header and the data means nothing
    if data.draw(st.integers(0, 4)):
        changed = damaged(data, whole, ("bit", "byte", "cut out", "put in"), last)
    else:
        at = data.draw(st.integers(0, last))
        changed = whole[:at] + struct.pack("<Q", 2**60) + whole[at + 8 :]
    (tmp_path / "m.gguf").write_bytes(changed)
    with OUTCOMES["GGUF, header bytes"].one():
        loaded = checkpoint_io.load_params(f"gguf:{tmp_path / 'm.gguf'}")
        same_heads = gguf_files.open_gguf(str(tmp_path / "m.gguf")).metadata
        if all(same_heads.get(f"{model[0]}.{k}", v) == v for k, v in METADATA[model[0]].items() if "count" in k):
            assert_equal(loaded, params)


@given(data=st.data())
def test_cut(model, data, tmp_path):
    _, whole, _, params = model
    (tmp_path / "m.gguf").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with OUTCOMES["GGUF, cut"].one():
        assert_equal(checkpoint_io.load_params(f"gguf:{tmp_path / 'm.gguf'}"), params)
