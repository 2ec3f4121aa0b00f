"""Work folders in an object store: a file system in memory stands for it."""

import os
import pathlib

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from ilf_jax.errors import InputError
from ilf_jax.records import Draft
from ilf_jax.runtime import storage, workdir
from ilf_jax.training.step_log import StepLog


@pytest.fixture
def bucket(monkeypatch):
    """gs://bucket; nothing outside of this process."""
    monkeypatch.setenv("EPATH_USE_TF", "false")
    memory = MemoryFileSystem()
    memory.store.clear()
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: memory)
    from etils.epath import backend

    monkeypatch.setattr(backend._FileSystemSpecBackend, "_get_filesystem", lambda self, name: memory)
    return storage.path("gs://bucket/runs")


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.path("here") == tmp_path / "here" and storage.is_local(storage.path("here"))
    assert not storage.is_local(storage.path("gs://bucket/x"))
    assert str(storage.path("gs://bucket/x") / "y") == "gs://bucket/x/y"


METRICS = [{"iteration": 1, "stage": "draft", "metric": "m", "value": 1.0, "stderr": None, "n": 1}]


def test_records_manifest_and_metrics(bucket):
    folder, lock = workdir.open_workdir(str(bucket / "run"), {"seed": 1})
    with lock:
        stage = folder.stage(1, "draft")
        stage.begin()
        assert not stage.complete and stage.missing_shards(2) == [0, 1]
        stage.write_shard(0, 2, [Draft("a", "one", "policy")])
        assert stage.missing_shards(2) == [1]
        stage.write_shard(1, 2, [Draft("b", "two", "policy")])
        stage.finish(shards=2, count=2, metrics=METRICS, cost={"seconds": 2.0})
        folder.write_metrics()
    again, _ = workdir.open_workdir(str(bucket / "run"), {"seed": 1})
    assert again.stage(1, "draft").complete
    assert again.stage(1, "draft").read(Draft)["b"].text == "two"
    assert again.metrics() == METRICS
    with pytest.raises(InputError, match=r"config\.seed: 1 -> 2"):
        workdir.open_workdir(str(bucket / "run"), {"seed": 2})


def test_step_log_is_whole_where_it_was_flushed(bucket):
    log = StepLog(bucket / "steps.jsonl", "finetune")
    log.rewind(0)
    for step in range(3):
        log.add(step, {"loss": 1.0 + step, "grad_norm": 1.0})
    log.flush()
    again = StepLog(bucket / "steps.jsonl", "finetune")
    again.rewind(2)
    again.flush()
    assert again.mean_of_last(2) == 1.5
    assert len((bucket / "steps.jsonl").read_text().splitlines()) == 2


def test_folders_by_way_of_the_disk(bucket):
    with storage.written_locally(bucket / "made") as place:
        (place / "inner").mkdir()
        (place / "inner" / "file").write_text("text")
        (place / "checkpoint").mkdir()
        (place / "checkpoint" / "large").write_text("no")
    assert (bucket / "made" / "inner" / "file").read_text() == "text"
    with storage.read_locally(bucket / "made", leave_out={"checkpoint"}) as place:
        assert sorted(p.name for p in place.iterdir()) == ["inner"]
        assert (place / "inner" / "file").read_text() == "text"
    assert not place.exists()
    storage.delete(bucket / "made")
    assert not (bucket / "made").exists()
    storage.delete(bucket / "made")


def test_a_folder_on_disk_is_used_as_it_is(tmp_path):
    with storage.written_locally(tmp_path / "new") as place:
        assert place == tmp_path / "new" and place.is_dir()
    with storage.read_locally(place) as same:
        assert same == place
    assert isinstance(storage.path(tmp_path), type(tmp_path)) and not isinstance(tmp_path, epath.gpath.PosixGPath)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.path("~/runs/a") == storage.local("~/runs/a") == tmp_path / "runs" / "a"
    assert storage.local("runs/~a") == pathlib.Path("runs/~a")
    assert os.fspath(storage.path("gs://bucket/~a")) == "gs://bucket/~a"
    for bad in ("~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(InputError):
            storage.path(bad)
