"""Paths, on a disk and of buckets, without a request; tests/cloud/test_bucket_paths.py makes those."""

import os
import pathlib

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import storage


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.path("here") == tmp_path / "here" and storage.is_local(storage.path("here"))
    assert not storage.is_local(storage.path("gs://bucket/x"))
    assert str(storage.path("gs://bucket/x") / "y") == "gs://bucket/x/y"


def test_a_folder_on_disk_is_used_as_it_is(tmp_path):
    with storage.written_locally(tmp_path / "new") as place:
        assert place == tmp_path / "new" and place.is_dir()
    with storage.read_locally(place) as same:
        assert same == place
    storage.copy(place, tmp_path / "copy")
    assert storage.names(tmp_path) == {"new", "copy"} and storage.names(tmp_path / "none") == set()
    storage.delete(tmp_path / "copy")
    assert storage.fetched(place) == place == storage.path(str(place)) and storage.names(tmp_path) == {"new"}


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.path("~/runs/a") == storage.local("~/runs/a") == tmp_path / "runs" / "a"
    assert storage.local("runs/~a") == pathlib.Path("runs/~a")
    assert os.fspath(storage.path("gs://bucket/~a")) == "gs://bucket/~a"
    for bad in ("~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(InputError):
            storage.path(bad)


@pytest.mark.parametrize(("given", "said"), [
    ("gs:/bucket/x", "two slashes follow gs:, as in gs://bucket/x"), ("s3:bucket", "two slashes follow s3:"),
    ("gcs://bucket/x", "write gs://bucket/x"), ("S3://bucket/x", "write s3://bucket/x"),
    ("az://bucket/x", "allowed are gs://BUCKET/FOLDER, s3://BUCKET/FOLDER"), ("abfs://bucket/x", "is not supported"),
    ("hdfs://host/x", "is not supported"), ("file:///x", "is not supported"), ("gs://", "is no name of a bucket"),
    ("gs://B/x", "is no name of a bucket"),
])
def test_other_schemes_are_refused(given, said):
    with pytest.raises(InputError, match=given) as e:
        storage.path(given)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_names_in_buckets():
    path = storage.path("gs://bucket/runs//a.b/") / "one" / "two.jsonl"
    assert str(path) == os.fspath(path) == "gs://bucket/runs/a.b/one/two.jsonl" and path.absolute() == path
    assert (path.name, path.stem, path.suffix) == ("two.jsonl", "two", ".jsonl")
    assert str(path.parent.parent.parent.parent) == str(path.parent.parent.parent.parent.parent) == "gs://bucket"
    assert str(path.with_name("three")) == "gs://bucket/runs/a.b/one/three" and path > path.parent
    assert path == storage.path(str(path)) == storage.path(path) and len({path, storage.path(str(path))}) == 1
    assert path != storage.path(str(path).replace("gs:", "s3:"))
    assert storage.path("runs/init:name/x").name == "x"
