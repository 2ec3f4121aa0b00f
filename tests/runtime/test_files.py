"""Files are written whole or not at all, read with errors that name them, and locked until the process ends."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import digests, files

pytestmark = [pytest.mark.fast, pytest.mark.versions]

HOLDER = """
import pathlib, sys
from ilf_jax.runtime import digests, files
with files.lock(pathlib.Path(sys.argv[1]), "taken"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("shared", [False, True])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, shared):
    files.write_atomically(tmp_path / "below/file", "old", shared=shared)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"file: cannot be written: No space left"):
        files.write_atomically(tmp_path / "below/file", "new", shared=shared)
    assert {p.name: p.read_text() for p in (tmp_path / "below").iterdir()} == {"file": "old"}


def test_processes_that_share_a_file_write_to_different_temporary_files(tmp_path, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(source.name), replace(source, target)))
    files.write_atomically(tmp_path / "page.html", "text", shared=True)
    assert seen == [f".page.html.{os.getpid()}.tmp"]


@pytest.mark.parametrize(("content", "problem"), [
    (b"{", "is not valid JSON"), (b"\xff{}", "is not valid JSON"), (b"[1]", "expected a JSON object, not a list"),
])
def test_read_json_names_the_file_and_the_cure(tmp_path, content, problem):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json: {problem}.*; make it again"):
        files.read_json(tmp_path / "a.json", "make it again")


def test_read_json_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"a\.json: cannot be read: No such file"):
        files.read_json(tmp_path / "a.json")


def test_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "x\u2028y"}\n\n{"a": "z"}\n', encoding="utf-8")
    assert list(files.read_json_lines(tmp_path / "a.jsonl")) == [(1, {"a": "x\u2028y"}), (3, {"a": "z"})]


def test_a_damaged_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n[2]\n{"a": "\xc3')
    damaged = []
    assert list(files.read_json_lines(tmp_path / "a.jsonl", damaged=damaged.append)) == [(1, {"a": 1})]
    assert damaged == [2, 3]
    with pytest.raises(InputError, match=r"a\.jsonl:2: expected a JSON object, not a list; restore it"):
        list(files.read_json_lines(tmp_path / "a.jsonl"))


def test_a_lock_ends_with_its_process(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="in use"), files.lock(tmp_path, "in use"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock = files.lock(tmp_path, "in use")
    with lock, pytest.raises(InputError, match="in use"), files.lock(tmp_path, "in use"):
        pass
    # Left, it is free, although `lock` is still referred to.
    with files.lock(tmp_path, "in use"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_killed_twice_between_a_digest_and_its_file(tmp_path, monkeypatch):
    """Whatever is under the file's name then was written, and is read."""
    path, write = tmp_path / "metrics.jsonl", files.write_atomically
    files.write_lines(path, '{"a": 1}\n')

    def killed(target, text):
        if target == path:
            raise KeyboardInterrupt
        write(target, text)

    for text in ('{"a": 2}\n', '{"a": 3}\n'):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, "write_atomically", killed)
            files.write_lines(path, text)
        assert list(files.read_json_lines(path)) == [(1, {"a": 1})]
    files.write_lines(path, '{"a": 3}\n')
    assert list(files.read_json_lines(path)) == [(1, {"a": 3})]
    path.write_text('{"a": 4}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: is damaged"):
        list(files.read_json_lines(path))


def test_a_folder_whose_files_are_listed(tmp_path):
    for name in ("tokenizer.json", "special.txt"):
        (tmp_path / name).write_text(name)
    files.check_folder(tmp_path)  # nothing is known of it
    files.note_folder(tmp_path)
    files.check_folder(tmp_path)
    (tmp_path / "special.txt").write_text("speciaL.txt")
    with pytest.raises(InputError, match=r"special\.txt: is damaged: .*; restore the folder from a copy"):
        files.check_folder(tmp_path)
    (tmp_path / "special.txt").unlink()
    with pytest.raises(InputError, match=r"special\.txt: cannot be read"):
        files.check_folder(tmp_path)


@pytest.mark.parametrize("key", [None, digests.SEAL[1:], f"x{digests.SEAL}", digests.SEAL.replace("c", "b"), ""])
def test_an_object_without_its_seal_is_damaged(key, tmp_path):
    content = {"family": "llama", "num_layers": 2}
    sealed = digests.sealed(content)
    assert digests.unsealed(tmp_path, sealed, "") == content
    damaged = content if key is None else {**content, key: sealed[digests.SEAL]}
    with pytest.raises(digests.DamagedError, match=r"lacks 'crc32_of_the_rest', .*; restore it"):
        digests.unsealed(tmp_path, damaged, "restore it")
