"""safetensors files and their index: headers that do not fit the data or the config, damaged bytes, files missing."""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st
from limits import STRANGE, Outcomes, counted, damaged

from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.models.architecture import SHAPES

OUTCOMES = {f"safetensors, {what}": Outcomes() for what in ("header", "header bytes", "cut", "index", "files")}
counts = counted(**OUTCOMES)
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "I64", "I32", "I8", "U8", "BOOL", "C64", "X", "")
SIZES = (0, 1, -1, 2, 31, 32, 96, 2**31, 2**62, 2**64, 0.5, None, "4", [], True)


class Bytes(bytes):
    """Hypothesis does not print the values."""

    def __repr__(self):
        return f"{len(self)} bytes"


def make(folder, **options):
    config = dataclasses.replace(SHAPES["tiny"], vocab_size=40, num_layers=1)
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=v.shape).astype(np.float32)
              for k, v in traverse_util.flatten_dict(transformer.param_shapes(config)).items()}
    checkpoint_io.save_hf(config, traverse_util.unflatten_dict(params), folder, **options)
    return {p.name: Bytes(p.read_bytes()) for p in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(file names and bytes of a tiny Llama in one file, its params)."""
    folder = tmp_path_factory.mktemp("whole")
    files = make(folder)
    return files, flat_params(folder)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same in several files with an index."""
    folder = tmp_path_factory.mktemp("sharded")
    files = make(folder, shard_bytes=20_000)
    assert len(files) > 4
    return files, flat_params(folder)


def flat_params(folder):
    params = checkpoint_io.load_params(f"hf:{folder}")
    return {"/".join(k): Bytes(np.asarray(v).tobytes()) for k, v in traverse_util.flatten_dict(params).items()}


def check(folder, files, params, what):
    """The files in a folder are read as `params` or refused."""
    for name in os.listdir(folder):
        (folder / name).unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with OUTCOMES[f"safetensors, {what}"].one():
        checkpoint_io.read_config(f"hf:{folder}")
        assert flat_params(folder) == params


def taken_apart(data):
    """(header, data) of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put_together(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@given(data=st.data())
def test_header(whole, data, tmp_path):
    files, params = whole
    header, content = taken_apart(files[FILE])
    name = data.draw(st.sampled_from(sorted(header)))
    entry = header[name]
    what = data.draw(st.sampled_from(["dtype", "shape", "axis", "begin", "end", "entry", "name", "gone", "copy"]))
    if what == "gone":
        del header[name]
    elif what in ("name", "copy"):
        new = data.draw(st.sampled_from([*sorted(header), name.removeprefix("model."), "", "x", "lm_head.weight"]))
        header[new] = header[name] if what == "copy" else header.pop(name)
    elif what == "entry" or name == "__metadata__":
        header[name] = data.draw(st.sampled_from(STRANGE))
    elif what == "dtype":
        entry["dtype"] = data.draw(st.sampled_from(TYPES))
    elif what == "shape":
        entry["shape"] = data.draw(st.lists(st.sampled_from(SIZES), max_size=3))
    elif what == "axis":
        entry["shape"][0] = data.draw(st.sampled_from(SIZES))
    else:
        entry["data_offsets"][what == "end"] = data.draw(st.sampled_from(SIZES))
    check(tmp_path, {**files, FILE: put_together(header, content)}, params, "header")


@given(data=st.data())
def test_header_bytes(whole, data, tmp_path):
    files, params = whole
    content = files[FILE]
    if data.draw(st.integers(0, 4)):
        last = struct.unpack("<Q", content[:8])[0] + 7
        changed = damaged(data, content, ("bit", "byte", "cut out", "put in"), last)
    else:
        size = data.draw(st.sampled_from([0, 1, 2, 100, 10**6, 2**31, 2**60, 2**64 - 1]))
        changed = struct.pack("<Q", size) + content[8:]
    check(tmp_path, {**files, FILE: changed}, params, "header bytes")


@given(data=st.data())
def test_cut_or_longer(whole, data, tmp_path):
    files, params = whole
    at = data.draw(st.integers(0, len(files[FILE])))
    changed = files[FILE][:at] if data.draw(st.booleans()) else files[FILE] + bytes(1 + at % 100)
    check(tmp_path, {**files, FILE: changed}, params, "cut")


@given(data=st.data())
def test_index(sharded, data, tmp_path):
    files, params = sharded
    index = json.loads(files[INDEX])
    shards = sorted(set(index["weight_map"].values()))
    tensor = data.draw(st.sampled_from(sorted(index["weight_map"])))
    what = data.draw(st.sampled_from(["file", "strange", "gone", "more", "weight_map", "whole", "bytes"]))
    if what == "file":
        index["weight_map"][tensor] = data.draw(st.sampled_from([*shards, "gone.safetensors", "../" + shards[0], ".",
                                                                 "/dev/zero", "config.json", "a" * 300, "a\0b"]))
    elif what == "strange":
        index["weight_map"][tensor] = data.draw(st.sampled_from(STRANGE))
    elif what == "gone":
        del index["weight_map"][tensor]
    elif what == "more":
        index["weight_map"]["x.weight"] = data.draw(st.sampled_from(shards))
    elif what == "weight_map":
        index["weight_map"] = data.draw(st.sampled_from(STRANGE))
    elif what == "whole":
        index = data.draw(st.sampled_from(STRANGE))
    text = json.dumps(index).encode()
    check(tmp_path, {**files, INDEX: damaged(data, text, ("bit",)) if what == "bytes" else text}, params, "index")


@given(data=st.data())
def test_files(sharded, data, tmp_path):
    files, params = dict(sharded[0]), sharded[1]
    shards = sorted(name for name in files if name.startswith("model-"))
    one, other = data.draw(st.permutations(shards))[:2]
    what = data.draw(st.sampled_from(["gone", "empty", "swapped", "copied", "renamed", "no config"]))
    if what == "gone":
        del files[one]
    elif what == "empty":
        files[one] = b""
    elif what == "swapped":
        files[one], files[other] = files[other], files[one]
    elif what == "copied":
        files[one] = files[other]
    elif what == "renamed":
        files[FILE] = files.pop(one)
    else:
        del files["config.json"]
    check(tmp_path, files, params, "files")
