"""Where files lie: this machine's disk, or an object store (gs://, s3://, by etils and fsspec).

An object store has neither rename, nor append, nor lock; but what is written there appears at once and whole.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterator

from etils import epath

Path = pathlib.Path | epath.Path


def path(where: str | os.PathLike) -> Path:
    """An absolute path; one like gs://BUCKET/FOLDER is in an object store."""
    text = os.fspath(where)
    return epath.Path(text) if "://" in text else pathlib.Path(text).absolute()


def is_local(where: Path) -> bool:
    """Whether it is on a disk."""
    return isinstance(where, pathlib.Path)


def delete(folder: Path) -> None:
    """The folder with all it holds; nothing where there is none."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmtree()


@contextlib.contextmanager
def written_locally(folder: Path) -> Iterator[pathlib.Path]:
    """For libraries that write to a disk only: a folder there, put into its place when left."""
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)
        copy(epath.Path(temporary), folder)


@contextlib.contextmanager
def read_locally(folder: Path, leave_out: Collection[str] = ()) -> Iterator[pathlib.Path]:
    """For libraries that read from a disk only: the folder, or for as long as needed a copy of it.

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
    """All that a folder holds, but for folders named in `leave_out`, into another one, wherever they are."""
    source, target = epath.Path(source), epath.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for found in source.iterdir():
        if found.is_dir():
            if found.name not in leave_out:
                copy(found, target / found.name, leave_out)
        else:
            (target / found.name).write_bytes(found.read_bytes())
