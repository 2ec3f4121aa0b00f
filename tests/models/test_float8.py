"""Float8 checkpoints: every layout of scales, against a computation element by element."""

import json
import pathlib
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, float8

CASE = pathlib.Path(__file__).parent.parent / "cases" / "fp8_safetensors"
LINEAR = "model.layers.0.self_attn.q_proj.weight"


def write(path, tensors):
    """A safetensors file, with types that safetensors does not take from numpy."""
    names = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float32": "F32", "bfloat16": "BF16", "int8": "I8",
             "bool": "BOOL", "float8_e8m0fnu": "F8_E8M0"}
    header, data = {}, b""
    for name, a in tensors.items():
        header[name] = {"dtype": names[a.dtype.name], "shape": list(a.shape), "data_offsets": [len(data), len(data)
                                                                                               + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama, hidden size 192: more than one block of 128."""
    import dataclasses

    import jax

    from ilf_jax.models import transformer
    from ilf_jax.models.architecture import SHAPES

    folder = tmp_path_factory.mktemp("float8")
    config = dataclasses.replace(SHAPES["tiny"], vocab_size=40, hidden_size=192, num_layers=1)
    checkpoint_io.save_hf(config, transformer.init_params(config, jax.random.key(0)), folder)
    return folder


def quantised(model, tmp_path, scale_of, name="weight_scale_inv", kind=ml_dtypes.float8_e4m3fn, **quantisation):
    """The model with its linears in float8, and what they are, dequantised element by element."""
    tensors, wanted = load_file(model / "model.safetensors"), {}
    for key in [k for k in tensors if "proj" in k]:
        a = tensors[key]
        rows, columns = a.shape
        scale, of_element = scale_of(rows, columns)
        tensors[key] = (a / of_element).astype(kind)
        wanted[key] = tensors[key].astype(np.float32) * of_element
        tensors[key.removesuffix("weight") + name] = scale
        tensors[key.removesuffix("weight") + "input_scale"] = np.ones((), np.float32)
    write(tmp_path / "model.safetensors", tensors)
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    return wanted


def blocks(b0, b1):
    def scale_of(rows, columns):
        rng = np.random.default_rng(rows)
        scale = rng.uniform(0.5, 2.0, (-(-rows // b0), -(-columns // b1))).astype(np.float32)
        of_element = np.array([[scale[i // b0, j // b1] for j in range(columns)] for i in range(rows)])
        return scale, of_element

    return scale_of


def of_rows(rows, columns):
    scale = np.linspace(0.5, 2.0, rows, dtype=np.float32)[:, None]
    return scale, np.repeat(scale, columns, axis=1)


def of_all(rows, columns):
    return np.full((), 0.25, np.float32), np.full((rows, columns), 0.25, np.float32)


COMPRESSED = {"config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}}}


@pytest.mark.parametrize(
    ("scale_of", "name", "kind", "quantisation"),
    [
        (blocks(128, 128), "weight_scale_inv", "float8_e4m3fn", {"quant_method": "fp8"}),
        (blocks(96, 160), "weight_scale_inv", "float8_e4m3fn", {"quant_method": "fp8", "weight_block_size": [96, 160]}),
        (blocks(64, 32), "weight_scale_inv", "float8_e5m2", {"quant_method": "fp8", "weight_block_size": [64, 32]}),
        (of_rows, "weight_scale", "float8_e4m3fn", {"quant_method": "fbgemm_fp8"}),
        (of_rows, "weight_scale", "float8_e4m3fn", {"quant_method": "compressed-tensors", **COMPRESSED}),
        (of_all, "weight_scale", "float8_e4m3fn", {"quant_method": "modelopt", "quant_algo": "FP8"}),
        (of_all, "weight_scale_inv", "float8_e4m3fn", {"quant_method": "fp8", "weight_block_size": None}),
    ],
)
def test_dequantised(model, tmp_path, scale_of, name, kind, quantisation):
    wanted = quantised(model, tmp_path, scale_of, name, getattr(ml_dtypes, kind), **quantisation)
    source = checkpoint_io.open_source(f"hf:{tmp_path}")
    for key, value in wanted.items():
        np.testing.assert_allclose(source.read(key), value, rtol=1e-6)
    params = checkpoint_io.load_params(f"hf:{tmp_path}")
    np.testing.assert_allclose(params["layers_0"]["attention"]["q"]["kernel"].T, wanted[LINEAR], rtol=1e-6)


def test_scale_of_another_shape(model, tmp_path):
    quantised(model, tmp_path, blocks(64, 64), quant_method="fp8")
    with pytest.raises(InputError, match=r"scale of shape \(3, 1\) for a tensor of shape \(192, 32\) in blocks of"):
        checkpoint_io.open_source(f"hf:{tmp_path}").read("model.layers.0.self_attn.o_proj.weight")


@pytest.mark.fast
def test_without_scales():
    with pytest.raises(InputError, match=r"model\.safetensors: tensor \S+ is float8 \(F8_E4M3\), and there is no"):
        checkpoint_io.read_config(f"hf:{CASE}")


@pytest.mark.fast
@pytest.mark.parametrize("dtype", ["int8", "bool"])
def test_whole_numbers_are_no_weights(model, tmp_path, dtype):
    tensors = load_file(model / "model.safetensors")
    write(tmp_path / "model.safetensors", tensors | {LINEAR: np.ones_like(tensors[LINEAR]).astype(dtype)})
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    for read in (checkpoint_io.read_config, checkpoint_io.load_params):
        with pytest.raises(InputError, match=f"tensor {LINEAR} is of type (I8|BOOL)"):
            read(f"hf:{tmp_path}")


@pytest.mark.fast
@pytest.mark.parametrize("quantisation", [
    None, 8, [], {}, {"quant_method": "gptq", "bits": 4}, {"quant_method": ["fp8"]},
    {"quant_method": "fp8", "weight_block_size": [0, 128]}, {"quant_method": "fp8", "weight_block_size": "128"},
    {"quant_method": "fp8", "weight_block_size": [2**40, 1]},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": None}}},
])
def test_other_quantisation(quantisation):
    with pytest.raises(InputError, match=r"config\.json: quantization_config"):
        float8.check_method(quantisation, "config.json")


def test_nan_in_float8_is_found(model, tmp_path):
    quantised(model, tmp_path, of_all, "weight_scale", quant_method="fp8")
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    begin = json.loads(data[8 : 8 + size])[LINEAR]["data_offsets"][0]
    data[8 + size + begin] = 0x7F  # NaN in float8_e4m3fn
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=f"tensor {LINEAR} has 1 of "):
        checkpoint_io.load_params(f"hf:{tmp_path}")


def test_float64_beyond_float32(model, tmp_path):
    tensors = load_file(model / "model.safetensors")
    tensors[LINEAR] = np.full(tensors[LINEAR].shape, 1e300)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    with pytest.raises(InputError, match="too large for float32"):
        checkpoint_io.load_params(f"hf:{tmp_path}")


@pytest.mark.fast
def test_of_a_multimodal_model_either_section_may_say_it():
    from ilf_jax.models import family_configs, float8

    text = dict(model_type="gemma3_text", vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    good = {"quant_method": "fp8", "weight_block_size": [4, 8]}
    for config in ({"text_config": text, "quantization_config": good},
                   {"text_config": {**text, "quantization_config": good}}):
        family_configs.from_hf({"model_type": "gemma3", **config}, "config.json")
        assert float8.block_size(config) == (4, 8)
    for config in ({"text_config": text, "quantization_config": True},
                   {"text_config": {**text, "quantization_config": True}, "quantization_config": good}):
        with pytest.raises(InputError, match=r"config\.json: quantization_config = True; expected an object"):
            family_configs.from_hf({"model_type": "gemma3", **config}, "config.json")
