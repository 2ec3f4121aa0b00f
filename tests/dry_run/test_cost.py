"""Estimates of time by the roofline: alike a computation by hand, and never more on more devices."""

import dataclasses
import itertools

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.dry_run import cost
from ilf_jax.dry_run.batch_shapes import Shapes
from ilf_jax.models import flops
from ilf_jax.models.architecture import SHAPES
from ilf_jax.runtime.hardware import Chip, Reached

pytestmark = pytest.mark.fast

CHIP = Chip(memory=16e9, bfloat16=200e12, float32=33e12, bandwidth=800e9, link=200e9)
REACHED = Reached(forward=0.5, decode=0.25, train=0.4, source="a test")
LLAMA = SHAPES["llama_8b"]
SIZES = Shapes(prompt=1000, prefix=900, branch=100, questions=5, row=1024, rows=32, accumulation=1, targets=64,
               source="a test", policy_prompt=800, typical=0.5)


def config(**changes):
    c = ilf_jax.base_config()
    c.task, c.data.source, c.precision, c.iterations = "summarize", "builtin:none", "bfloat16", 2
    c.policy.checkpoint = "init:llama_8b"
    c.draft.source = "policy"
    c.update_from_flattened_dict(changes)
    return config_lib.read(c)


def roofline(mesh=cost.Mesh(1, 1, 1)):  # noqa: B008
    return cost.Roofline(CHIP, REACHED, mesh, "bfloat16")


def test_a_decode_step_of_one_row_reads_the_weights():
    expected = 2 * flops.num_params(LLAMA) / 800e9 / 0.25
    assert roofline().decode_step(LLAMA, 1, 1, 0, 0) == pytest.approx(expected, rel=1e-3)
    halved = roofline(cost.Mesh(1, 1, 2)).decode_step(LLAMA, 1, 1, 0, 0)
    assert halved == pytest.approx(expected / 2, rel=1e-3)


def test_a_forward_pass_is_limited_by_matmuls_or_by_links():
    by_hand = flops.forward(LLAMA, tokens=8 * 512, seen=256, unembedded=0) / (200e12 * 0.5)
    assert roofline().forward(LLAMA, 8, 512, 256) == pytest.approx(by_hand)
    slow = cost.Roofline(dataclasses.replace(CHIP, link=1e9), REACHED, cost.Mesh(1, 1, 8), "bfloat16")
    assert slow.forward(LLAMA, 8, 512, 256) == pytest.approx(4 * 32 * 8 * 512 * 4096 * 2 / 1e9)


def test_more_devices_are_never_slower_but_rows_run_out():
    models, seconds = dict.fromkeys(("policy", "refiner", "judge"), LLAMA), []
    for devices in cost.SLICES:
        of_stages = cost.stages(config(**{"mesh.tensor": 4}), models, SIZES, 5000, 500,
                                roofline(cost.Mesh(devices // 4, 1, 4)))
        seconds.append(of_stages)
    assert list(seconds[0]) == ["draft", "refine", "score", "finetune", "evaluate"]
    assert all(a[stage] >= b[stage] for a, b in itertools.pairwise(seconds) for stage in a)
    # 8 documents a batch of refine fill 8 rows: from 32 devices of which 4 share a row, nothing is gained.
    assert seconds[3]["refine"] == seconds[-1]["refine"] < seconds[2]["refine"]


def test_thoughts_and_cumulative_training_cost():
    models = dict.fromkeys(("policy", "refiner", "judge"), LLAMA)

    def of(**changes):
        return cost.stages(config(**changes), models, SIZES, 5000, 500, roofline())

    assert of(**{"refiner.thinking_tokens": 480})["refine"] > 3 * of()["refine"]
    once, cumulative = of(**{"finetune.data": "new"}), of(**{"finetune.data": "cumulative"})
    assert cumulative["finetune"] == pytest.approx(1.5 * once["finetune"], rel=0.01)


def test_slices_that_the_mesh_cannot_be_laid_over_are_left_out():
    models = dict.fromkeys(("policy", "refiner", "judge"), LLAMA)
    columns, rows = cost.rows(config(**{"mesh.fsdp": 2, "mesh.tensor": 8}), models, SIZES, 100, 10, CHIP, REACHED,
                              cost.SLICES)
    assert [row[0] for row in rows] == ["16", "32", "64", "128", "256"]
    assert all(len(row) == len(columns) for row in rows) and columns[-1] == "device hours"
