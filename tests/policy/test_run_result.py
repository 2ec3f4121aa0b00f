"""What `ilf_jax.run` returns, and the function that is called with new metrics."""

import dataclasses
import json
import sys

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.policy.run_result import RunResult
from ilf_jax.runtime import files, told


@pytest.mark.fast
def test_a_result_is_its_metrics_and_says_where_things_are(tiny_run):
    _, folder, result = tiny_run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert result == list(result) == result.metrics == result[:] == rows and result != rows[:-1]
    assert result == dataclasses.replace(result) != dataclasses.replace(result, checkpoints={})
    assert len(result) == len(rows) and result[-1] == rows[-1]
    assert result.workdir == folder and result.report.read_text().startswith("<!doctype html>")
    assert sorted(result.checkpoints) == [1, 2] and all(path.is_dir() for path in result.checkpoints.values())
    assert result.policy == folder / "iteration_002/checkpoint" and result.baselines == {}


@pytest.mark.fast
def test_a_table_of_the_metrics(tiny_run, monkeypatch):
    pytest.importorskip("pandas", reason="pandas is not installed")
    result = tiny_run[2]
    frame = result.to_frame()
    assert list(frame.columns)[:6] == ["iteration", "stage", "metric", "value", "stderr", "n"]
    assert len(frame) == len(result.metrics) and frame.iloc[0].metric == result[0]["metric"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs the package pandas, which is not installed: pip install pandas"):
        result.to_frame()


@pytest.mark.fast
def test_without_an_iteration_there_is_no_policy(tmp_path):
    assert RunResult([], tmp_path, tmp_path / "report.html", {}, {}).policy is None


def stage(folder, k, name, *metrics, complete=True):
    rows = [{"iteration": k, "stage": name, "metric": metric, "value": 0.5, "stderr": None, "n": 2}
            for metric in metrics]
    place = folder / f"iteration_{k:03d}" / name
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / "manifest.json", {"complete": complete, "shards": 1, "count": 1, "metrics": rows})


@pytest.mark.fast
def test_each_stage_is_told_once_to_each(tmp_path):
    heard = {"on_metrics": [], "wandb": []}

    def telling():
        return told.Told(tmp_path, {name: rows.extend for name, rows in heard.items()})

    stage(tmp_path, 0, "evaluate", "a", "b")
    teller = telling()
    stage(tmp_path, 1, "draft", "c")
    stage(tmp_path, 1, "refine", "d", complete=False)
    teller.tell(tmp_path)
    teller.tell(tmp_path)
    assert [row["metric"] for row in heard["on_metrics"]] == ["c"]  # what was there before is old
    assert [row["metric"] for row in heard["wandb"]] == ["a", "b", "c"]  # a tracker has it all
    stage(tmp_path, 1, "refine", "d")
    stage(tmp_path / "baselines/dpo", 1, "refine", "d")
    for folder in (tmp_path, tmp_path / "baselines/dpo"):
        telling().tell(folder)
    assert [(row["metric"], row.get("baseline")) for row in heard["on_metrics"]] == [
        ("c", None), ("d", None), ("d", "dpo")]
    (tmp_path / told.FILE).write_text('{"wandb": 3}')
    with pytest.raises(InputError, match=r"told\.json: is damaged.*delete it to have all metrics told"):
        telling()


def test_a_function_that_fails_is_called_again(tiny_config, tmp_path):
    """The run stops with the user's line, and goes on where it was; each row is heard once, the baseline's too."""
    tiny_config.finetune.target, tiny_config.baselines = "initial", {"slow": {"finetune.learning_rate": 1e-5}}
    code = tmp_path / "my_code.py"
    code.write_text("""
heard = []
def on_metrics(rows):
    if rows[0]["stage"] == "finetune" and [] not in heard:
        heard.append([])
        raise ConnectionError("the service is away")
    heard.append(rows)
""")
    namespace: dict = {}
    exec(compile(code.read_text(), str(code), "exec"), namespace)
    on_metrics, heard, folder = namespace["on_metrics"], namespace["heard"], tmp_path / "run"
    with pytest.raises(InputError, match=r"my_code\.py:6: on_metrics\(\) failed on the metrics of "
                                         r"iteration_001/finetune: ConnectionError: the service is away"):
        ilf_jax.run(tiny_config, folder, on_metrics=on_metrics)
    result = ilf_jax.run(tiny_config, folder, on_metrics=on_metrics)
    rows = [row for told_rows in heard for row in told_rows]
    assert [row for row in rows if "baseline" not in row] == result.metrics
    lines = (result.baselines["slow"] / "metrics.jsonl").read_text().splitlines()
    assert [row for row in rows if "baseline" in row] == [
        {**json.loads(line), "baseline": "slow"} for line in lines]
    count = len(heard)
    ilf_jax.run(tiny_config, folder, on_metrics=on_metrics)
    assert len(heard) == count
