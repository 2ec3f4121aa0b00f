"""Where files are: on this machine's disk, or in an object store (gs://, s3://, by etils and fsspec).

An object store has no rename, append or lock, but a file appears in it at once and complete.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, TypeAlias

from etils import epath

from ilf_jax.errors import InputError

if TYPE_CHECKING:
    Path: TypeAlias = pathlib.Path  # epath.Path has the same methods; a checker cannot see them
else:
    Path = pathlib.Path | epath.Path


def path(where: str | os.PathLike) -> Path:
    """An absolute path, `~` replaced by the home folder. One such as gs://BUCKET/FOLDER is in an object store.

    Raises:
        InputError: as `local`.
    """
    text = os.fspath(where)
    return epath.Path(text) if "://" in text else local(text).absolute()


def local(where: str | os.PathLike) -> pathlib.Path:
    """A path on this machine's disk, `~` replaced by the home folder: the shell leaves it in --flag=~/x and hf:~/x.

    Raises:
        InputError: `~NAME` of somebody who has no home folder here, or a character that no path has.
    """
    text = os.fspath(where)
    if "\0" in text:
        raise InputError(f"{text!r}: no path has a zero byte")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from error


def is_local(where: Path) -> bool:
    """Whether it is on a disk."""
    return isinstance(where, pathlib.Path)


def delete(folder: Path) -> None:
    """Deletes the folder and all it contains, if there is one."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        epath.Path(folder).rmtree()


@contextlib.contextmanager
def written_locally(folder: Path) -> Iterator[pathlib.Path]:
    """For libraries that write to a disk only: a local folder, copied to its place on exit."""
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)
        copy(epath.Path(temporary), folder)


@contextlib.contextmanager
def read_locally(folder: Path, leave_out: Collection[str] = ()) -> Iterator[pathlib.Path]:
    """For libraries that read from a disk only: the folder, or a temporary copy of it.

    Args:
        leave_out: names of folders that are not copied.
    """
    if is_local(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy(folder, epath.Path(temporary), leave_out)
        yield pathlib.Path(temporary)


def copy(source: Path, target: Path, leave_out: Collection[str] = ()) -> None:
    """Copies what a folder contains into another, wherever they are, except the folders named in `leave_out`."""
    source, target = epath.Path(source), epath.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        if item.is_dir():
            if item.name not in leave_out:
                copy(item, target / item.name, leave_out)
        else:
            (target / item.name).write_bytes(item.read_bytes())
