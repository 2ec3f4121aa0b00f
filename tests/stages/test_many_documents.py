"""What documents become does not depend on how many of them are put into tokens before the first batch."""

import json
import pathlib

import pytest

import ilf_jax
from ilf_jax.inference import answer_scoring, look_ahead
from ilf_jax.sweeps import config_files

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick_compiles")


def ran(folder):
    """Of a small run: each stage's records by id, and what the stages cost."""
    settings = {"data.train_size": 12, "data.eval_size": 6, "iterations": 1, "baselines": (), "evaluate.win_rate": True}
    settings |= {f"{name}.batch_size": 4 for name in ("draft", "refine", "score", "evaluate")}
    settings |= {f"{name}.max_new_tokens": 8 for name in ("draft", "refine", "evaluate")}
    settings["refine.num_candidates"] = 2
    ilf_jax.run(config_files.from_file(str(ROOT / "configs/quickstart.py"), settings), folder)
    records = {}
    for stage in ("draft", "refine", "score", "finetune", "evaluate"):
        lines = [line for path in sorted((folder / "iteration_001" / stage).glob("0*.jsonl"))
                 for line in path.read_text().splitlines()]
        records[stage] = {row["id"]: row for row in map(json.loads, lines)}
    costs = [row for row in map(json.loads, (folder / "performance.jsonl").read_text().splitlines())
             if row["metric"] == "performance/first_batch_seconds"]
    return records, {(row["iteration"], row["stage"]): row["value"] for row in costs}


def test_a_sample_that_is_looked_at_changes_no_text(tmp_path, monkeypatch):
    all_of_them, costs = ran(tmp_path / "all")
    assert set(costs) == {(0, "evaluate"), *((1, stage) for stage in ("draft", "refine", "score", "finetune",
                                                                      "evaluate"))}
    assert all(seconds >= 0 for seconds in costs.values())
    for module in (look_ahead, answer_scoring):
        monkeypatch.setattr(module, "LOOKED_AT", 4)
    monkeypatch.setattr(look_ahead, "_SAMPLED", 3)
    monkeypatch.setattr(look_ahead, "_LONGEST", 1)
    sampled, _ = ran(tmp_path / "sampled")
    for stage, of_all in all_of_them.items():
        of_sample = sampled[stage]
        assert of_all.keys() == of_sample.keys()
        for i, row in of_all.items():
            for name, value in row.items():
                if name in ("logprob", "logprobs", "scores"):
                    assert of_sample[i][name] == pytest.approx(value, abs=1e-4), (stage, i, name)
                elif name != "prompt_scores":
                    assert of_sample[i][name] == value, (stage, i, name)
