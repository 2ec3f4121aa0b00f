"""Reading and writing small files: JSON with errors that name the file, writes that a kill cannot spoil, locks."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import filelock

from ilf_jax.errors import InputError
from ilf_jax.runtime import storage
from ilf_jax.runtime.json_text import parse_line


def write_atomically(path: storage.Path, text: str, *, shared: bool = False) -> None:
    """Writes a file so that it has its old content or the new one, never a part.

    Args:
        shared: other processes may write the same file at the same time.

    Raises:
        InputError: the disk is full, or the file cannot be written for another reason.
    """
    if not storage.is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {e.strerror}; what was written before is intact, "
                         "and the same command resumes from there") from e


@contextlib.contextmanager
def full_disk_explained(folder: storage.Path) -> Iterator[None]:
    """Turns a full disk into an InputError, whichever library ran into it and whatever error it raised."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        number = e.errno if isinstance(e, OSError) else None
        if number not in (errno.ENOSPC, errno.EDQUOT) and "No space left on device" not in str(e):
            raise
        where = getattr(e, "filename", None) or folder
        raise InputError(f"{where}: cannot be written: No space left on device; what was written before is intact, "
                         "and the same command resumes from there") from e


def read_json(path: storage.Path, cure: str = "restore it") -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        cure: ends the message of an error: what the user can do about it.

    Raises:
        InputError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}; {cure}") from e
    except ValueError as e:
        raise InputError(f"{path}: is not valid JSON ({e}); {cure}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, not a {type(value).__name__}; {cure}")
    return value


def read_json_lines(
    path: storage.Path, cure: str = "restore it", damaged: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 1, and JSON object of each line that is not empty.

    Args:
        cure: ends the message of an error: what the user can do about it.
        damaged: called with the number of a line that is not a JSON object, which is then skipped.

    Raises:
        InputError: a line is not a JSON object, and `damaged` is None; or the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")  # not splitlines(): texts may contain U+2028, which JSON does not escape
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}; {cure}") from e
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row, problem = parse_line(line, first=number == 1, all_texts=True), None
        except ValueError as e:
            row, problem = None, f"is {e}"
        if isinstance(row, dict):
            yield number, row
        elif damaged is not None:
            damaged(number)
        else:
            raise InputError(f"{path}:{number}: {problem or f'expected a JSON object, not a {type(row).__name__}'}; "
                             f"{cure}")


@contextlib.contextmanager
def lock(folder: pathlib.Path, message: str) -> Iterator[None]:
    """Inside, this process has the lock of a folder, through the file `.lock` in it. A killed process loses it.

    Args:
        message: of the error where another process has the lock.

    Raises:
        InputError: another process has the lock, or the folder cannot be written.
    """
    # Elsewhere filelock would fall back on the file's existence, which outlives a process that is killed.
    held = filelock.FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except filelock.Timeout as e:
        raise InputError(message) from e
    except OSError as e:
        raise InputError(f"--workdir {folder}: cannot be written: {e.strerror or e}") from e
    try:
        yield
    finally:
        held.release()
