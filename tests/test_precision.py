"""config.precision='auto': by the devices when a folder is begun, and from then on by the folder."""

import json
import logging

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.runtime import hardware

pytestmark = pytest.mark.usefixtures("quick_compiles")


def precision(folder):
    return json.loads((folder / "config.json").read_text())["precision"]


@pytest.mark.fast
def test_the_default_of_each_platform():
    assert [hardware.default_precision(p) for p in ("cpu", "gpu", "tpu")] == ["float32", "bfloat16", "bfloat16"]


def test_a_run_keeps_the_precision_that_it_was_begun_with(tiny_config, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "run"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(hardware, "default_precision", lambda platform: "bfloat16")
        metrics = ilf_jax.run(tiny_config, folder)
    assert precision(folder) == "bfloat16"
    with caplog.at_level(logging.INFO):
        tiny_config.precision = "auto"
        assert ilf_jax.run(tiny_config, folder) == metrics
    assert precision(folder) == "bfloat16"
    assert f"config.precision=bfloat16: {folder} was begun with it; the default here is float32" in caplog.text
    tiny_config.precision = "float32"
    with pytest.raises(InputError, match="precision: 'bfloat16' -> 'float32'"):
        ilf_jax.run(tiny_config, folder)


def test_a_cpu_begins_in_float32(tiny_run):
    assert precision(tiny_run[1]) == "float32"
