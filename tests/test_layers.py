"""config.layers: a run whose models' layers lie in stacks does what one with layers one by one does."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

import ilf_jax
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.runtime import checkpoint
from ilf_jax.training import train_program

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"


def texts(folder, stage):
    (shards,) = [sorted((folder / "iteration_001" / stage).glob("0*.jsonl"))]
    rows = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    return {row["id"]: row["texts"] for row in rows if "texts" in row}


@pytest.mark.usefixtures("optimised")
def test_a_run_with_lora_does_the_same_in_both_forms(tmp_path, monkeypatch):
    c = runpy.run_path(str(QUICKSTART))["get_config"]()
    c.iterations, c.baselines, c.data.train_size, c.data.eval_size = 1, None, 8, 4
    c.draft.batch_size = c.evaluate.batch_size = c.refine.batch_size = c.score.batch_size = 4
    c.draft.max_new_tokens = c.refine.max_new_tokens = c.evaluate.max_new_tokens = 12
    c.finetune.batch_size, c.finetune.accumulation, c.refine.num_candidates = 4, 2, 2
    c.finetune.lora_rank, c.finetune.lora_targets = 4, "layers_[12]/attention/[qv]/"
    seen = []
    split = train_program.split
    monkeypatch.setattr(train_program, "split", lambda *args: seen.append(split(*args)) or seen[-1])
    values, params = [], []
    for layers in ("unrolled", "scan"):
        c.layers = layers
        folder = tmp_path / layers
        values.append({(m["iteration"], m["stage"], m["metric"]): m["value"] for m in ilf_jax.run(c, folder)})
        shapes = transformer.param_shapes(checkpoint_io.read_config(c.policy.checkpoint))
        params.append(checkpoint.load_model(folder / "iteration_001" / "checkpoint", shapes))
    assert [any("_to_" in name for name in trained) for trained, _ in seen] == [False, True]
    assert texts(tmp_path / "unrolled", "refine") == texts(tmp_path / "scan", "refine") != {}
    loss = [of_run[1, "finetune", "loss"] for of_run in values]
    assert loss[0] == pytest.approx(loss[1], rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *params)
    base = checkpoint_io.load_params(c.policy.checkpoint)
    changed = [name for name in base if name.startswith("layers_") and np.any(
        np.asarray(base[name]["attention"]["q"]["kernel"]) != params[1][name]["attention"]["q"]["kernel"])]
    assert changed == ["layers_1", "layers_2"]
    with_scan = ilf_jax.load(tmp_path / "scan").generate("Ada the baker", n=1, max_new_tokens=4)
    assert with_scan == ilf_jax.load(tmp_path / "unrolled").generate("Ada the baker", n=1, max_new_tokens=4)
