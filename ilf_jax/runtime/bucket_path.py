"""Paths in buckets with the methods of pathlib that our code uses, and copies between buckets and disks."""

import contextlib
import errno
import fnmatch
import functools
import io
import os
import pathlib
from collections.abc import Callable, Collection, Iterator

from ilf_jax.runtime import bucket_clients
from ilf_jax.runtime.bucket import Bucket, bucket
from ilf_jax.runtime.bucket_index import Known


@functools.total_ordering
class BucketPath(os.PathLike[str]):
    """An object in a bucket, or a folder: all that begins with its name. The methods are those of pathlib.Path."""

    __slots__ = ("bucket", "key")

    def __init__(self, where: Bucket, key: str) -> None:
        self.bucket, self.key = where, key

    def __str__(self) -> str:
        return f"{self.bucket.uri}/{self.key}" if self.key else self.bucket.uri

    def __repr__(self) -> str:
        return f"BucketPath('{self}')"

    def __fspath__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | os.PathLike[str]) -> "BucketPath":
        parts = [part for part in os.fspath(name).split("/") if part not in ("", ".")]
        return BucketPath(self.bucket, "/".join(filter(None, [self.key, *parts])))

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return pathlib.PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "BucketPath":
        """The folder that it is in."""
        return BucketPath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "BucketPath":
        """Beside it."""
        return self.parent / name

    def absolute(self) -> "BucketPath":
        """Itself."""
        return self

    def exists(self) -> bool:
        """Whether there is an object of this name, or a folder that holds something."""
        return self.bucket.exists(self.key)

    def is_dir(self) -> bool:
        """Whether objects are in it."""
        return bool(self.bucket.names(self.key))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return (self.name, False) in self.bucket.names(self.parent.key)

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is in it; nothing where there is no such folder."""
        for name, _ in self.bucket.names(self.key):
            yield self / name

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """What is in it under a name of this pattern, which has no slash."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there once something is in it."""

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError."""
        return self.bucket.read(self.key)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content. Raises FileNotFoundError."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The content, to be read. Raises FileNotFoundError, and ValueError of another mode."""
        if mode != "rb":
            raise ValueError(f"an object is opened to be read ('rb'), not {mode!r}")
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes) -> int:
        """Replaces the content at once."""
        self.bucket.write(self.key, data)
        return len(data)

    def write_text(self, data: str, encoding: str | None = None) -> int:
        """Replaces the content at once."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def write_soon(self, data: bytes) -> None:
        """Replaces the content, in the background, before anything that is not written so."""
        self.bucket.write_soon(self.key, data)

    def digest(self) -> str:
        """CRC-32 of what was written; '' where that is not known. Raises FileNotFoundError."""
        return self.bucket.digest(self.key)

    def fetch(self) -> None:
        """Gets ready content and digest, if the object is there."""
        with contextlib.suppress(FileNotFoundError):
            self.read_bytes()
            self.digest()

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the object. Raises FileNotFoundError if it is not there, unless `missing_ok`."""
        if self.bucket.knows(self.key) and not self.bucket.index.has(self.key):
            if missing_ok:
                return
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        self.bucket.delete([self.key])

    def rmtree(self) -> None:
        """Deletes all objects that are in it."""
        self.bucket.delete(list(self.bucket.under(self.key)))


def parse(text: str) -> BucketPath | None:
    """What a URI names; None of a path on a disk. Raises InputError where the scheme is not supported."""
    parts = bucket_clients.split(text)
    return None if parts is None else BucketPath(bucket(*parts[:2]), parts[2])


def copy_out(
    source: BucketPath, target: pathlib.Path, leave_out: Collection[str] = (), say: Callable[[int], None] | None = None
) -> None:
    """Copies what is in a folder to a disk, several objects at a time.

    Manifests first: a run that is under way meanwhile writes them after what they speak of.

    Args:
        source: the folder.
        target: a folder, made if need be.
        leave_out: names of folders that are not copied.
        say: is called with the number of bytes, before anything is copied.
    """
    where, start = source.bucket, f"{source.key}/" if source.key else ""
    where.flush()

    def fetch(item: tuple[str, Known]) -> None:
        key, known = item
        place = target.joinpath(*key.removeprefix(start).split("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
            where.download(key, place, known.size)

    def listed() -> dict[str, Known]:
        return {key: known for key, known in where.under(source.key).items() if not key.endswith("/")
                and not set(key.removeprefix(start).split("/")[:-1]) & set(leave_out)}

    found = listed()
    if say is not None:
        say(sum(known.size or 0 for known in found.values()))
    manifests = {key: known for key, known in found.items() if key.endswith("/manifest.json")}
    if manifests:
        where.each(fetch, list(manifests.items()))
        found = listed()
    where.each(fetch, [item for item in found.items() if item[0] not in manifests])


def copy_in(source: pathlib.Path, target: BucketPath) -> None:
    """Copies what is in a folder of a disk into a bucket, several objects at a time."""
    files = [file for file in sorted(source.rglob("*")) if file.is_file()]
    target.bucket.flush()
    target.bucket.each(
        lambda file: target.bucket.upload(file, (target / file.relative_to(source).as_posix()).key), files)
