"""Weights & Biases and MLflow themselves, offline: what they are told, and that a resumed run goes on in its record."""

import json
import sys
from types import SimpleNamespace

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.reporting import trackers
from ilf_jax.runtime import workdir

ROWS = [{"iteration": 0, "stage": "evaluate", "metric": "rouge1", "value": 0.25},
        {"iteration": 1, "stage": "rank", "metric": "win_rate[a vs b]", "value": 0.75},
        {"iteration": 1, "stage": "evaluate", "metric": "rouge1", "value": None},
        {"iteration": 1, "stage": "evaluate", "metric": "rouge1", "value": 0.5, "baseline": "dpo"}]


def opened(tmp_path, **tracking):
    c = ilf_jax.base_config()
    c.tracking.update(tracking)
    config = config_lib.read(c)
    folder, lock = workdir.open_workdir(tmp_path / "run", config_lib.to_dict(config))
    lock.close()
    return trackers.opened(config, folder)


@pytest.mark.fast
def test_nothing_is_imported_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with opened(tmp_path) as listeners:
        assert listeners == {}


@pytest.mark.fast
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    tracking = SimpleNamespace(**{"wandb": None, "mlflow": None, name: "p"})
    with pytest.raises(InputError, match=f"config.tracking.{name}='p' needs the package {name}, which is not "
                                         f"installed: pip install {name}"):
        trackers.check(SimpleNamespace(tracking=tracking))
    setattr(tracking, name, " ")
    with pytest.raises(InputError, match=f"config.tracking.{name}: '' given; name a project"):
        trackers.check(SimpleNamespace(tracking=tracking))


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with opened(tmp_path, mlflow="reviews") as listeners:
        listeners["mlflow"](ROWS[:1])
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, mlflow="reviews") as listeners:
        listeners["mlflow"](ROWS[1:])
        raise KeyboardInterrupt
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("reviews").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FAILED"
    assert run.data.params["finetune.learning_rate"] == str(ilf_jax.base_config().finetune.learning_rate)
    assert run.data.metrics == {"evaluate/rouge1": 0.25, "rank/win_rate_a vs b_": 0.75,
                                "baselines/dpo/evaluate/rouge1": 0.5}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "rank/win_rate_a vs b_")] == [1]


def test_mlflow_that_is_not_there(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://here")
    refused = pytest.raises(InputError, match=r"config\.tracking\.mlflow='reviews': cannot be opened: ")
    with refused, opened(tmp_path, mlflow="reviews"):
        pass


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with opened(tmp_path, wandb="reviews") as listeners:
        listeners["wandb"](ROWS)
    (record,) = (tmp_path / "run/wandb").glob("offline-run-*")
    found = _history(next(record.glob("*.wandb")))
    assert found == [{"iteration": 0, "evaluate/rouge1": 0.25},
                     {"iteration": 1, "rank/win_rate[a vs b]": 0.75, "baselines/dpo/evaluate/rouge1": 0.5}]
    with opened(tmp_path, wandb="reviews") as listeners:
        listeners["wandb"](ROWS[:1])
    ids = {path.name.rpartition("-")[2] for path in (tmp_path / "run/wandb").glob("offline-run-*")}
    assert len(ids) == 1  # `wandb sync` puts both into one run


def _history(path):
    """What was logged, without what wandb adds, from the file that `wandb sync` sends."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows


def _records(data, block=32768):
    """LevelDB's log format, after wandb's 7 bytes: in blocks, each part with checksum (4), length (2) and type (1)."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # the end of a block, too short for a part
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""
