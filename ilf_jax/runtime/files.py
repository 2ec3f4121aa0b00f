"""Reading and writing small files: JSON with digests and errors that name the file, atomic writes, locks."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import filelock

from ilf_jax.errors import InputError
from ilf_jax.runtime import digests, storage
from ilf_jax.runtime.json_text import parse_line
from ilf_jax.runtime.os_errors import explained


def write_atomically(path: storage.Path, text: str, *, shared: bool = False) -> None:
    """Writes a file so that it has its old content or the new one, never a part.

    Args:
        shared: other processes may write the same file at the same time.

    Raises:
        InputError: the disk is full, or the file cannot be written for another reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(path, storage.BucketPath):
            path.write_text(text)
            return
        try:
            with open(temporary, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: storage.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with its digest inside, as `write_atomically` does. `read_sealed` checks it.

    Raises:
        InputError: it cannot be written.
        ValueError: the object holds NaN or infinity.
    """
    write_atomically(path, json.dumps(digests.sealed(content), indent=1, allow_nan=False) + "\n")


def write_lines(path: storage.Path, text: str, *, soon: bool = False) -> None:
    """Writes a file of lines as `write_atomically` does, and its digest beside it. `read_json_lines` checks it.

    Killed in between, the digests of the old and of the new content are noted. In a bucket, the object carries it.

    Args:
        path: of the file.
        text: its lines.
        soon: in a bucket, go on while the object is being written: before anything else that is not written so.
    """
    if isinstance(path, storage.BucketPath):
        (path.write_soon if soon else path.write_bytes)(text.encode())
        return
    # Of what is there, not of what was noted: a write before this one may have been killed in between, too.
    old = [digests.of_bytes(_read(path, "delete it"))] if path.exists() else []
    write_atomically(digests.beside(path), "\n".join([digests.of_text(text), *old]) + "\n")
    write_atomically(path, text)


def read_json(path: storage.Path, cure: str = "restore it") -> dict[str, Any]:
    """A JSON object from a file that people or other programs wrote.

    Args:
        cure: ends the message of an error: what the user can do about it.

    Raises:
        InputError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        value = json.loads(_read(path, cure))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is not valid JSON ({e}); {cure}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, not a {type(value).__name__}; {cure}")
    return value


def read_sealed(path: storage.Path, cure: str = "restore it") -> dict[str, Any]:
    """The JSON object that `write_json` wrote.

    Args:
        cure: ends the message of an error: what the user can do about it.

    Raises:
        DamagedError: it has no digest, or not the one that it holds.
        InputError: the file cannot be read, or does not hold a JSON object.
    """
    return digests.unsealed(path, read_json(path, cure), cure)


def _read(path: storage.Path, cure: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}; {cure}") from e


def read_lines(path: storage.Path, cure: str = "restore it", digest: str | None = None) -> list[bytes]:
    """The lines of a file. Not as `splitlines` cuts them: texts may contain U+2028, which JSON does not escape.

    Args:
        cure: ends the message of an error: what the user can do about it.
        digest: that the file must have; None: that which is noted beside it, if one is.

    Raises:
        DamagedError: the file is not what was written.
        InputError: it cannot be read.
    """
    data = _read(path, cure)
    if digest is None:
        digests.check_beside(path, data, cure)
    else:
        digests.check(path, data, digest, cure)
    return data.split(b"\n")


def read_json_lines(
    path: storage.Path, cure: str = "restore it", damaged: Callable[[int], None] | None = None,
    digest: str | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 1, and JSON object of each line that is not empty.

    Args:
        cure: ends the message of an error: what the user can do about it.
        damaged: called with the number of a line that is not a JSON object, which is then skipped.
        digest: see `read_lines`.

    Raises:
        InputError: a line is not a JSON object, and `damaged` is None; or see `read_lines`.
    """
    for number, line in enumerate(read_lines(path, cure, digest), start=1):
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


def note_folder(folder: storage.Path) -> None:
    """Notes the digests of all files of a folder, just written, in a file of its own. `check_folder` checks them."""
    write_json(digests.folder_list(folder), digests.list_folder(folder))


def check_folder(folder: pathlib.Path) -> None:
    """Raises DamagedError if a folder of `note_folder` does not hold what it did. Of other folders nothing is known."""
    path = digests.folder_list(folder)
    cure = f"restore the folder from a copy, or delete {path.name} if you changed the file yourself"
    for name, digest in (read_sealed(path, cure) if path.is_file() else {}).items():
        digests.check(folder / name, _read(folder / name, cure), str(digest), cure)


@contextlib.contextmanager
def lock(folder: pathlib.Path, message: str, name: str = ".lock") -> Iterator[None]:
    """Inside, this process has the lock of a folder, through a file in it. A killed process loses it.

    Args:
        message: of the error where another process has the lock.
        name: of the file.

    Raises:
        InputError: another process has the lock, or the folder cannot be written.
    """
    # Elsewhere filelock would fall back on the file's existence, which outlives a process that is killed.
    held = filelock.FileLock(folder / name, blocking=False, fallback_to_soft=False)
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
