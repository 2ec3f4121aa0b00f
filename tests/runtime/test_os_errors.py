"""Errors of the operating system become one sentence that says where, what and what to do."""

import errno
import os
import pathlib

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import files, os_errors

pytestmark = pytest.mark.fast

CODES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE")
WORDS = {"ENOSPC": "free some space", "EDQUOT": "quota", "EFBIG": "ulimit -f", "EROFS": "mount it writable",
         "EIO": "the system's log", "ESTALE": "mount it again"}


def raised(code, how):
    """An exception as the system, tensorstore or a library around either raises it."""
    number = getattr(errno, code)
    words = os.strerror(number)
    if how == "OSError":
        return OSError(number, words)
    if how == "tensorstore":
        return ValueError(f'RESOURCE_EXHAUSTED: Error writing "a/c/0" in OCDBT database: Failed to write 28 bytes to '
                          f"file 17: {words} [os_error_code='{number}'] [source locations='x.cc:312']")
    error = RuntimeError("could not finish the checkpoint")
    error.__cause__ = OSError(number, words)
    return error


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("how", ["OSError", "tensorstore", "cause"])
def test_each_code_in_words(code, how):
    for own in (True, False):
        with pytest.raises(InputError) as e, os_errors.explained(pathlib.Path("/x/run"), own=own):
            raise raised(code, how)
        assert str(e.value).startswith("/x/run: cannot be written: ")
        assert WORDS[code] in str(e.value) and "the same command resumes from there" in str(e.value)


@pytest.mark.parametrize("error", [ValueError("no such thing"), KeyError("a"), FileNotFoundError(errno.ENOENT, "gone")])
def test_what_is_not_about_the_place_passes(error):
    with pytest.raises(type(error)), os_errors.explained(pathlib.Path("/x"), own=False):
        raise error


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert os_errors.code(first) is None


def test_a_folder_that_is_removed(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: No such file.*removed, or renamed"), \
            os_errors.explained(tmp_path / "gone"):
        (tmp_path / "gone/file").write_text("x")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("write", [files.write_atomically, files.write_lines])
def test_a_write_that_fails(tmp_path, monkeypatch, code, write):
    write(tmp_path / "a.jsonl", "old\n")

    def fail(*_):
        raise raised(code, "OSError")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(InputError, match="cannot be written"):
            write(tmp_path / "a.jsonl", "new\n")
    assert files.read_lines(tmp_path / "a.jsonl") == [b"old", b""]
    assert not list(tmp_path.glob("*.tmp"))
