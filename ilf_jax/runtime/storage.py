"""Where files are: on this machine's disk, or in a bucket of an object store (gs://, s3://; see `bucket_path`)."""

import atexit
import contextlib
import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias, TypeGuard

from ilf_jax.errors import InputError
from ilf_jax.runtime import bucket_path, patience, progress
from ilf_jax.runtime.bucket_path import BucketPath

Path: TypeAlias = pathlib.Path | BucketPath

_WINDOW = 32
_WORTH_A_LINE = 100 << 20
"""Bytes; the size of larger copies is logged before."""


def path(where: str | os.PathLike) -> Path:
    """An absolute path, `~` replaced by the home folder. One such as gs://BUCKET/FOLDER is in an object store.

    Raises:
        InputError: as `local`; or a URI of another scheme.
    """
    if isinstance(where, BucketPath):
        return where
    text = os.fspath(where)
    if isinstance(where, pathlib.Path):
        return local(text).absolute()
    return bucket_path.parse(text) or local(text).absolute()


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


def fetched(where: str | os.PathLike, beside: tuple[str, ...] = ()) -> pathlib.Path:
    """As `local`; of a URI, a copy of the file or folder on this machine's disk, until the process ends.

    Args:
        where: a path or a URI.
        beside: endings of other files in the same folder that are copied with a file.

    Raises:
        InputError: as `path`; or the URI names nothing that can be read.
    """
    place = path(where) if isinstance(where, BucketPath | str) else None
    return _fetched(place, beside) if isinstance(place, BucketPath) else local(where)


@functools.cache
def _fetched(where: BucketPath, beside: tuple[str, ...]) -> pathlib.Path:
    temporary = tempfile.mkdtemp(prefix="ilf_jax-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    place = pathlib.Path(temporary) / (where.name or where.bucket.name)
    for other in where.parent.iterdir() if beside else ():
        if other.name.endswith(beside) and other != where:
            (place.parent / other.name).write_bytes(other.read_bytes())
    bucket_path.copy_out(where, place, say=lambda size: say_size(size, where, place))
    if place.is_dir():
        return place
    try:
        where.bucket.download(where.key, place, None)
    except FileNotFoundError as e:
        raise InputError(f"{where}: there is no such object, and no object below it") from e
    return place


def say_size(size: int, source: object, target: object) -> None:
    """Logs what a large copy takes, before it is made."""
    if size >= _WORTH_A_LINE:
        progress.log(f"copying {size / 1e9:.1f} GB from {source} to {target}")


def is_local(where: Path) -> TypeGuard[pathlib.Path]:
    """Whether it is on a disk."""
    return isinstance(where, pathlib.Path)


def set_patience(seconds: float) -> None:
    """How long a bucket that does not answer is waited for, see config.storage.patience."""
    patience.set_seconds(seconds)


def check(folder: Path) -> None:
    """Asks a bucket whether it can be reached. Raises InputError if not, or if it or the permission is missing."""
    if isinstance(folder, BucketPath):
        folder.bucket.listing(f"{folder.key}/config.json")


def own(folder: Path) -> None:
    """From now on, only this run writes into the folder. In a bucket, it is listed now, and not again."""
    if isinstance(folder, BucketPath):
        folder.bucket.own(folder.key)


def flush(folder: Path) -> None:
    """Waits until what was written in the background is there. Raises InputError or TryAgainError if it cannot be."""
    if isinstance(folder, BucketPath):
        folder.bucket.flush()


def inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing where there is none."""
    try:
        return [folder / name for name in sorted(p.name for p in folder.iterdir())]
    except (FileNotFoundError, NotADirectoryError):
        return []


def names(folder: Path) -> set[str]:
    """Of what is in a folder; empty where there is none."""
    return {p.name for p in inside(folder)}


def names_below(folder: Path) -> list[str]:
    """Names of the files in a folder and in its folders, from the folder itself, sorted."""
    if isinstance(folder, BucketPath):
        start = f"{folder.key}/" if folder.key else ""
        return sorted(key.removeprefix(start) for key in folder.bucket.under(folder.key) if not key.endswith("/"))
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def delete(folder: Path) -> None:
    """Deletes the folder and all it contains, if there is one."""
    if isinstance(folder, BucketPath):
        folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def ahead(paths: Sequence[Path]) -> Iterator[Path]:
    """The same files; of a bucket, some are fetched at once before they are read one after the other."""
    for start in range(0, len(paths), _WINDOW):
        window = paths[start : start + _WINDOW]
        remote = [p for p in window if isinstance(p, BucketPath)]
        if remote:
            remote[0].bucket.each(BucketPath.fetch, remote)
        yield from window


@contextlib.contextmanager
def written_locally(folder: Path) -> Iterator[pathlib.Path]:
    """For libraries that write to a disk only: a local folder, copied to its place on exit."""
    if not isinstance(folder, BucketPath):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)
        bucket_path.copy_in(pathlib.Path(temporary), folder)


@contextlib.contextmanager
def read_locally(folder: Path, leave_out: Collection[str] = ()) -> Iterator[pathlib.Path]:
    """For libraries that read from a disk only: the folder, or a temporary copy of it.

    Args:
        folder: anywhere.
        leave_out: names of folders that are not copied.
    """
    if not isinstance(folder, BucketPath):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        bucket_path.copy_out(folder, pathlib.Path(temporary), leave_out)
        yield pathlib.Path(temporary)


def copy(source: pathlib.Path, target: Path) -> None:
    """Copies what a folder on a disk contains into another, wherever that is."""
    if isinstance(target, BucketPath):
        bucket_path.copy_in(source, target)
    else:
        shutil.copytree(source, target, dirs_exist_ok=True)


def move(source: Path, target: Path) -> None:
    """Renames a file or a folder, on one disk or in one bucket. In a bucket, each object is copied, then deleted."""
    if isinstance(source, BucketPath) and isinstance(target, BucketPath):
        source.bucket.move(source.key, target.key)
    else:
        os.replace(source, target)
