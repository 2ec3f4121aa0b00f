"""Chips are known by their kind, and slices by their name."""

import importlib.util
import types

import pytest

from ilf_jax.errors import InputError
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
