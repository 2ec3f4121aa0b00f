"""Few programs: what a stage pads its rows to, on every kind of device, for small and large models."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from ilf_jax.models import architecture, padding
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.row_planner import RowPlanner
from ilf_jax.runtime import progress

pytestmark = pytest.mark.fast

_RNG = np.random.default_rng(0)
# As of news and posts: most short, some very long.
PROMPTS = np.clip(np.exp(_RNG.normal(5.9, 0.8, 698)), 20, 3500).astype(int).tolist()
BRANCHES = _RNG.integers(30, 420, 8 * 698).tolist()


@dataclasses.dataclass(frozen=True)
class Device:
    """What jax says of a device."""

    platform: str
    device_kind: str


DEVICES = [Device("cpu", "cpu"), Device("gpu", "NVIDIA H100 80GB HBM3"), Device("gpu", "NVIDIA A100-SXM4-40GB"),
           Device("gpu", "NVIDIA L4"), Device("tpu", "TPU v4"), Device("tpu", "TPU v5 lite"),
           Device("tpu", "TPU v6 lite"), Device("METAL", "Apple M4")]
MODELS = {
    "smollm2_135m": dataclasses.replace(
        architecture.SHAPES["llama_8b"], vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_layers=30,
        num_heads=9, num_kv_heads=3, head_dim=64, tied_embeddings=True),
    "llama_8b": architecture.SHAPES["llama_8b"],
    "llama_70b": architecture.SHAPES["llama_70b"],
}


def planner(device, model, **compute):
    return RowPlanner(MODELS[model], device, ComputeOptions(**compute))


def padded(lengths, chosen):
    return sum(padding.row_length(n, chosen) for n in lengths)


@pytest.mark.parametrize(("device", "model"), list(itertools.product(DEVICES, MODELS)))
def test_698_mixed_documents_take_at_most_four_programs(device, model):
    of = planner(device, model)
    for share in (1.0, 0.01, 100.0):  # a part of all documents, or the first of many epochs
        chosen = of.row_lengths(PROMPTS, share)
        assert 1 <= len(chosen) <= 4 and list(chosen) == sorted(chosen)
        assert chosen[0] >= min(PROMPTS) and chosen[-1] >= max(PROMPTS)
        _, prefixes, branches = of.paired_row_lengths(PROMPTS, BRANCHES, share)
        assert 1 <= len(prefixes) * len(branches) <= 4
        assert prefixes[-1] >= max(PROMPTS) and branches[-1] >= max(BRANCHES)
        assert all(length % of.multiple == 0 for length in (*chosen, *prefixes))
    assert len(of.row_lengths(PROMPTS, each=2)) <= 2
    assert len(of.row_lengths(PROMPTS, most=1)) == 1
    assert of.multiple == (1 if device.platform == "cpu" else 128)


def test_a_small_model_on_a_cpu_pads_little_and_a_large_one_compiles_once():
    small, large = planner(DEVICES[0], "smollm2_135m"), planner(DEVICES[5], "llama_8b")
    assert len(small.row_lengths(PROMPTS)) == 4
    assert padded(PROMPTS, small.row_lengths(PROMPTS)) < 1.6 * sum(PROMPTS)
    assert len(large.row_lengths(PROMPTS)) == 2  # on one chip, where a program costs as much as all of the prompts
    slice_of_16 = SimpleNamespace(mesh=SimpleNamespace(size=16))
    assert planner(DEVICES[5], "llama_8b", rows=slice_of_16).row_lengths(PROMPTS) == (3584,)


def test_under_a_scan_a_program_costs_a_part_and_more_lengths_are_worth_one():
    rows = SimpleNamespace(mesh=SimpleNamespace(size=16))
    unrolled, scanned = (planner(DEVICES[5], "llama_8b", rows=rows, scans=scans) for scans in (False, True))
    assert scanned.program_tokens == pytest.approx(unrolled.program_tokens * (1 + 7) / (32 + 7))
    assert 1 < len(scanned.row_lengths(PROMPTS)) <= 4


def test_devices_of_a_mesh_compute_more_meanwhile_but_those_of_a_cpu_do_not():
    rows = SimpleNamespace(mesh=SimpleNamespace(size=16))
    for device, factor in ((DEVICES[5], 16), (DEVICES[0], 1)):
        one, many = planner(device, "llama_8b"), planner(device, "llama_8b", rows=rows)
        assert many.program_tokens == pytest.approx(factor * one.program_tokens)


def test_splash_takes_multiples_of_its_block_on_any_device():
    assert planner(DEVICES[0], "smollm2_135m", attention="splash").multiple == 128


def test_what_is_chosen_is_logged(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "log", said.append)
    of = planner(DEVICES[0], "smollm2_135m")
    assert of.row_lengths([100] * 3 + [20], purpose="") and not said
    assert of.row_lengths([100] * 9000 + [20] * 1000, purpose="refine 1") == (20, 100)
    of.say_pairs("score 1", ([100, 90], (100,)), ([20, 40], (40,)), ("prefixes", "branches"))
    assert said[0].startswith("refine 1: up to 2 programs, rows of 20 and 100 tokens; 0% of the tokens are padding")
    assert said[1].startswith("score 1: 1 program, prefixes of 100 by branches of 40 tokens; 11% of the tokens are pad")
