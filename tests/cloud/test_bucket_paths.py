"""Paths in buckets of real servers: what they do, with how many requests, and what is said where that fails."""

import json
import sys
import threading

import object_stores
import pytest

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.records import Draft
from ilf_jax.runtime import bucket as bucket_lib
from ilf_jax.runtime import digests, files, patience, storage, workdir
from ilf_jax.training.step_log import StepLog


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def store(request):
    with object_stores.started(request.param) as started:
        yield started


@pytest.fixture
def fresh(store, monkeypatch):
    """Makes this process forget what it knows; it has a client of the store."""

    def forget():
        bucket_lib.bucket.cache_clear()
        storage._fetched.cache_clear()

    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(patience._state, "seconds", 20.0)
    forget()
    yield forget
    forget()


@pytest.fixture
def folder(store, fresh, request):
    """An empty folder of this test's own."""
    return storage.path(f"{store.uri}/{request.node.originalname}")


def kinds(store):
    return [r.kind for r in store.proxy.requests]


def test_a_prefix_that_holds_nothing(folder):
    assert list(folder.iterdir()) == [] and not folder.exists() and not folder.is_dir()
    assert storage.names(folder) == set() and list(folder.glob("*")) == []
    storage.delete(folder)
    (folder / "none").unlink(missing_ok=True)
    for read in ((folder / "none").read_bytes, (folder / "none").unlink):
        with pytest.raises(FileNotFoundError, match="none"):
            read()


@pytest.mark.parametrize("owned", [True, False])
def test_written_read_listed_deleted(folder, fresh, owned):
    folder = folder / str(owned)
    (folder / "a" / "one.txt").write_text("ä")
    (folder / "a" / "two.jsonl").write_bytes(b"2")
    (folder / "top").write_soon(b"3")
    storage.flush(folder)
    fresh()
    fresh_folder = storage.path(str(folder))
    if owned:
        storage.own(fresh_folder)
    a = fresh_folder / "a"
    assert [p.name for p in fresh_folder.iterdir()] == ["a", "top"] and [p.name for p in a.glob("*.txt")] == ["one.txt"]
    assert a.exists() and a.is_dir() and not a.is_file() and (a / "one.txt").is_file() and not (a / "one").exists()
    assert (a / "one.txt").read_text() == "ä" and (a / "two.jsonl").open("rb").read() == b"2"
    assert (a / "one.txt").digest() == digests.of_text("ä")
    (a / "one.txt").unlink()
    assert not (a / "one.txt").exists() and [p.name for p in a.iterdir()] == ["two.jsonl"]
    storage.delete(fresh_folder)
    assert not fresh_folder.exists()
    fresh()
    assert list(storage.path(str(folder)).iterdir()) == []


def test_what_was_written_here_is_not_asked_for(store, folder):
    with store.proxy.settings():
        storage.own(folder)
        listings = len(kinds(store))
        assert listings <= 3 and "read" not in kinds(store)
        for i in range(5):
            files.write_lines(folder / "stage" / f"{i}.jsonl", f"{i}\n", soon=True)
        files.write_json(folder / "stage" / "manifest.json", {"complete": True})
        assert files.read_sealed(folder / "stage" / "manifest.json") == {"complete": True}
        assert [files.read_lines(folder / "stage" / f"{i}.jsonl")[0] for i in range(5)] == [b"%d" % i for i in range(5)]
        assert storage.names(folder / "stage") == {*(f"{i}.jsonl" for i in range(5)), "manifest.json"}
        assert not (folder / "other" / "x").exists() and (folder / "stage").is_dir()
        assert kinds(store)[listings:] == ["write"] * 6
        assert store.proxy.requests[-1].name.endswith("manifest.json")  # after what was queued
        storage.delete(folder)
        assert not folder.exists() and set(kinds(store)[listings + 6:]) <= {"delete"}


def test_nothing_overtakes_what_was_queued_before(store, folder):
    """Manifests come after their shards, and the second content of an object after the first."""
    seen = []

    def before(request):
        if request.name.endswith("slow") and not seen:
            threading.Event().wait(0.5)
        seen.append(request.name.rpartition("/")[2])

    with store.proxy.settings(before=before):
        (folder / "slow").write_soon(b"1")
        (folder / "quick").write_soon(b"2")
        (folder / "slow").write_soon(b"3")
        (folder / "manifest").write_bytes(b"4")
    assert seen == ["quick", "slow", "slow", "manifest"] or seen == ["slow", "quick", "slow", "manifest"]
    storage.flush(folder)


def test_a_write_that_fails_in_the_background_is_raised(store, folder, fresh):
    storage.own(folder)
    with store.proxy.settings(failing=1.0, status=403):
        (folder / "lost").write_soon(b"1")
        with pytest.raises(InputError, match="permission denied"):
            (folder / "manifest").write_bytes(b"2")
    assert not (folder / "lost").exists() and not (folder / "manifest").exists()


def test_a_damaged_object_is_refused(store, folder, fresh):
    path = folder / "00000-of-00001.jsonl"
    files.write_lines(path, '{"a": 1}\n')
    more = {"metadata" if store.scheme == "gs" else "Metadata": {"crc32": path.digest()}}
    place = str(path).removeprefix(f"{store.scheme}://")
    path.bucket._fs.pipe_file(place, b'{"a": 2}\n', **more)
    fresh()
    with pytest.raises(digests.DamagedError, match="is damaged"):
        files.read_lines(storage.path(str(path)))
    path.bucket._fs.pipe_file(place, b'{"a": 3}\n')  # a user's own
    fresh()
    assert files.read_lines(storage.path(str(path)))[0] == b'{"a": 3}'


METRICS = [{"iteration": 1, "stage": "draft", "metric": "m", "value": 1.0, "stderr": None, "n": 1}]


def test_a_stage_resumes_and_its_manifest_has_the_digests(store, folder, fresh):
    work, lock = workdir.open_workdir(str(folder), {"seed": 1})
    with lock:
        stage = work.stage(1, "draft")
        stage.begin()
        assert not stage.complete and stage.missing_shards(2) == [0, 1]
        stage.write_shard(0, 2, [Draft("a", "one", "policy")])
        assert stage.missing_shards(2) == [1]
    fresh()
    work, lock = workdir.open_workdir(str(folder), {"seed": 1})
    with lock:
        stage = work.stage(1, "draft")
        stage.verify_written(2)
        assert stage.missing_shards(2) == [1]
        stage.write_shard(1, 2, [Draft("b", "two", "policy")])
        stage.finish(shards=2, count=2, metrics=METRICS, cost={"seconds": 2.0})
        work.write_metrics()
    assert len(json.loads((stage.path / "manifest.json").read_text())["digests"]) == 2
    fresh()
    again, lock = workdir.open_workdir(str(folder), {"seed": 1})
    with lock:
        assert again.stage(1, "draft").complete and again.metrics() == METRICS
        assert again.stage(1, "draft").read(Draft)["b"].text == "two"
    with pytest.raises(InputError, match=r"config\.seed: 1 -> 2"):
        workdir.open_workdir(str(folder), {"seed": 2})
    (stage.path / "00001-of-00002.jsonl").write_bytes(b'{"id": "b", "text": "other", "source": "policy"}\n')
    fresh()
    again, lock = workdir.open_workdir(str(folder), {"seed": 1})
    with lock, pytest.raises(digests.DamagedError):
        again.stage(1, "draft").verify()


def test_the_log_of_steps_is_whole_where_it_was_flushed(folder):
    log = StepLog(folder / "steps.jsonl", "finetune")
    log.rewind(0)
    for step in range(3):
        log.add(step, {"loss": 1.0 + step, "grad_norm": 1.0})
    log.flush()
    again = StepLog(folder / "steps.jsonl", "finetune")
    again.rewind(2)
    again.flush()
    assert again.mean_of_last(2) == 1.5 and len((folder / "steps.jsonl").read_text().splitlines()) == 2


def test_folders_by_way_of_the_disk(store, folder, fresh):
    with storage.written_locally(folder / "made") as place:
        for name in ("inner/file", "inner/manifest.json", "checkpoint/large"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(name)
    fresh()
    made = storage.path(str(folder / "made"))
    with store.proxy.settings(), storage.read_locally(made, leave_out={"checkpoint"}) as place:
        assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()) == [
            "inner/file", "inner/manifest.json"]
        assert (place / "inner" / "file").read_text() == "inner/file"
        read = [r.name for r in store.proxy.requests if r.kind == "read"]
        assert [name.rpartition("/")[2] for name in read] == ["manifest.json", "file"]  # what it speaks of is there
    assert not place.exists()


def test_copies_for_this_process(folder, fresh):
    for name in ("model/config.json", "model/tokenizer/x.model", "model/tokenizer/y.json", "model/tokenizer/z.bin"):
        (folder / name).write_text(name)
    fresh()
    model = storage.fetched(f"{folder}/model")
    assert (model / "tokenizer" / "y.json").read_text() == "model/tokenizer/y.json" and model.name == "model"
    assert storage.fetched(f"{folder}/model") == model
    tokenizer = storage.fetched(f"{folder}/model/tokenizer/x.model", beside=(".json",))
    assert {p.name for p in tokenizer.parent.iterdir()} == {"x.model", "y.json"}
    with pytest.raises(InputError, match="no such object"):
        storage.fetched(f"{folder}/none")


def test_many_objects_are_deleted_though_some_are_gone(folder, fresh):
    for i in range(6):
        (folder / f"[{i % 2}]" / f"{i}*").write_text("x")
    (folder / "kept").write_text("x")
    storage.own(folder)
    folder.bucket._fs.rm_file(str(folder / "[0]" / "2*").partition("://")[2])
    for i in range(2):
        storage.delete(folder / f"[{i}]")
    fresh()
    assert storage.names(storage.path(str(folder))) == {"kept"}


def test_failing_requests_are_made_again(store, folder):
    with store.proxy.settings(failing=0.3):
        storage.own(folder)
        for i in range(20):
            (folder / f"{i}").write_soon(b"%d" % i)
        storage.flush(folder)
        folder.bucket.index.remove(f"{folder.key}/7")
        assert (folder / "7").read_bytes() == b"7" and len(store.proxy.requests) > 24
    assert len(folder.bucket.listing(folder.key)) == 20


def test_a_store_that_stays_away_is_given_up_after_the_patience(store, folder, monkeypatch):
    (folder / "before").write_text("x")
    monkeypatch.setattr(patience._state, "seconds", 1.0)
    with store.proxy.settings(out=True):
        (folder / "queued").write_soon(b"x")
        with pytest.raises(TryAgainError, match=r"config\.storage\.patience.*goes on from there") as e:
            storage.flush(folder)
        assert "\n" not in str(e.value)
        with pytest.raises(TryAgainError):
            (folder / "not yet read").read_bytes()
    (folder / "queued").write_text("y")
    assert (folder / "before").read_text() == "x"


def refused(uri):
    """The one line with which a bucket is refused."""
    with pytest.raises(InputError) as e:
        storage.check(storage.path(uri))
    assert "\n" not in str(e.value)
    return str(e.value)


def test_the_bucket_is_missing(store, fresh):
    said = refused(f"{store.scheme}://no-such-bucket/run")
    assert "there is no bucket no-such-bucket; make it (" in said
    with pytest.raises(InputError, match="there is no bucket"):
        storage.fetched(f"{store.scheme}://no-such-bucket/x")
    with pytest.raises(InputError, match="there is no bucket"):
        storage.path(f"{store.scheme}://no-such-bucket/x").write_text("x")


@pytest.mark.parametrize(("status", "said"), [(403, "permission denied"), (401, "credentials are missing or refused")])
def test_permission_is_missing(store, folder, status, said):
    with store.proxy.settings(failing=1.0, status=status):
        assert said in refused(str(folder))


def test_nobody_listens(store, folder, monkeypatch):
    for name, value in store.environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    assert "127.0.0.1:1 cannot be reached (Connection refused)" in refused(str(folder))


def test_the_name_of_the_host_is_unknown(store, folder, monkeypatch):
    for name, value in store.environment("http://no-such-host.invalid:80").items():
        monkeypatch.setenv(name, value)
    assert "no-such-host.invalid:80 cannot be reached" in refused(str(folder))


def test_the_client_is_not_installed(store, folder, monkeypatch):
    package = {"gs": "gcsfs", "s3": "s3fs"}[store.scheme]
    monkeypatch.setitem(sys.modules, package, None)
    assert f"run: pip install {package}" in refused(str(folder))
