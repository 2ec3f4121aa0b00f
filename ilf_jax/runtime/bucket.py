"""Buckets of object stores, gs://NAME and s3://NAME: what this process asks of them.

A bucket has no folders, no rename and no append; an object appears in it whole or not at all, and what it holds under a
prefix is listed, not looked up. What this process has written it knows, and asks the bucket nothing about it
(`bucket_index`). Requests that fail for a passing reason are made again (`patience`).
"""

import concurrent.futures
import errno
import functools
import os
import pathlib
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from ilf_jax.runtime import bucket_clients, distributed, patience
from ilf_jax.runtime.bucket_index import Index, Known

T = TypeVar("T")
U = TypeVar("U")

_DIGEST = "crc32"
"""Key of an object's own metadata: the digest of its content, eight hexadecimal digits."""
_THREADS = 16
_MAX_QUEUED = 64
_WHOLE = 32 << 20
"""Bytes; larger objects are moved in parts, by the client."""


class Bucket:
    """One bucket. Thread-safe.

    Attributes:
        before_write: called before anything is written or deleted; what it raises stops that.
    """

    def __init__(self, scheme: str, name: str) -> None:
        """Makes no request."""
        self.scheme, self.name, self.uri = scheme, name, f"{scheme}://{name}"
        self.before_write: Callable[[], None] = lambda: None
        self.index = Index()
        self._queue: dict[concurrent.futures.Future[None], str] = {}
        self._room = threading.Semaphore(_MAX_QUEUED)
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "bucket")

    @functools.cached_property
    def _fs(self) -> Any:
        return bucket_clients.connect(self.scheme)

    @property
    def client(self) -> Any:
        """The fsspec file system: for requests that this class does not make."""
        return self._fs

    def _request(self, key: str, request: Callable[[Any], T], *, may_miss: bool = False) -> T:
        """Raises FileNotFoundError only with `may_miss`; without it, what is missing is the bucket."""
        uri = f"{self.uri}/{key}" if key else self.uri
        with bucket_clients.explained(uri, self.scheme, "" if may_miss else self.name):
            return patience.insist(self.uri, lambda: request(self._fs))

    def _at(self, key: str) -> str:
        return f"{self.name}/{key}" if key else self.name

    def listing(self, folder: str) -> dict[str, Known]:
        """All objects in a folder and below by key; one request for each thousand."""
        start = f"{folder}/" if folder else ""
        found = self._request(folder, lambda fs: fs.find(self._at(folder), detail=True))
        by_key = {name.removeprefix(f"{self.name}/"): self._known(details) for name, details in found.items()}
        return {key: known for key, known in by_key.items() if key.startswith(start)}

    def _known(self, details: dict[str, Any]) -> Known:
        # S3's listings have no metadata.
        noted = str((details.get("metadata") or {}).get(_DIGEST, "")) if self.scheme == "gs" else None
        return Known(noted, int(details["size"]))

    def under(self, folder: str) -> dict[str, Known]:
        """As `listing`, without a request where all is known."""
        if not self.knows(folder):
            return self.listing(folder)
        return {key: self.index.of(key) for key in self.index.under(folder) if key != folder}

    def own(self, folder: str) -> None:
        """Lists a folder, which from now on only this run changes."""
        self.index.note_all(folder, self.listing(folder))

    def exists(self, key: str) -> bool:
        """Whether there is an object or a folder of this name."""
        if self.index.has(key):
            return True
        if self.knows(key):
            return False
        return self._request(key, lambda fs: fs.exists(self._at(key)))

    def knows(self, key: str) -> bool:
        """Whether what the index does not have of it is not there. Other processes of the run write, too."""
        return self.index.knows_all(key) and distributed.count() == 1

    def names(self, folder: str) -> list[tuple[str, bool]]:
        """What is in a folder: name and whether it is a folder, too; empty where nothing begins with its name."""
        if not self.knows(folder):
            known = self.index.knows_all(folder)
            try:
                found = self._request(folder, lambda fs: fs.ls(self._at(folder), detail=True), may_miss=True)
            except FileNotFoundError:
                self._request(folder, lambda fs: fs.find(self._at(folder)))  # raises if there is no bucket
                found = []
            start = self._at(folder) + "/"
            listed = {d["name"].rstrip("/").removeprefix(start): d for d in found if d["name"].startswith(start)}
            listed.pop("", None)
            if not known:
                return sorted((name, d["type"] == "directory") for name, d in listed.items())
            for name, details in listed.items():
                if details["type"] != "directory":
                    self.index.add(f"{folder}/{name}" if folder else name, self._known(details))
            folders = {name for name, d in listed.items() if d["type"] == "directory"}
            return sorted({(name, name in folders) for name in {*listed, *self.index.names(folder)}})
        return [(name, self.index.is_folder(f"{folder}/{name}" if folder else name))
                for name in self.index.names(folder)]

    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError."""
        data = self.index.content(key)
        if data is None:
            more = {"max_concurrency": 1} if self.scheme == "s3" else {}  # else s3fs asks for the size first
            try:
                data = self._request(key, lambda fs: fs.cat_file(self._at(key), **more), may_miss=True)
            except FileNotFoundError as e:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.uri}/{key}") from e
            self.index.add(key, Known(size=len(data)), data)
        return data

    def digest(self, key: str) -> str:
        """That was noted when the object was written; '' if none was. Raises FileNotFoundError."""
        known = self.index.of(key)
        if known.digest is None:
            if self.scheme == "gs":
                known = self._known(self._request(key, lambda fs: fs.info(self._at(key)), may_miss=True))
            else:
                noted = self._request(key, lambda fs: fs.metadata(self._at(key)), may_miss=True)
                known = Known(str((noted or {}).get(_DIGEST, "")), known.size)
            self.index.add(key, known)
        return known.digest or ""

    def write(self, key: str, data: bytes) -> None:
        """Writes an object, after all that were queued."""
        self.flush()
        self._put(key, data)

    def write_soon(self, key: str, data: bytes) -> None:
        """Queues an object; waits if the queue is full.

        Raises:
            InputError, TryAgainError: one that was queued before could not be written.
        """
        self._raise_failed()
        concurrent.futures.wait([writing for writing, queued in self._queue.items() if queued == key])
        self._room.acquire()
        self.index.add(key, Known(_crc32(data), len(data)), data)
        writing = self._threads.submit(self._put_queued, key, data)
        self._queue[writing] = key

    def flush(self) -> None:
        """Waits for the queue. Raises as `write_soon`."""
        concurrent.futures.wait(list(self._queue))
        self._raise_failed()

    def _raise_failed(self) -> None:
        for writing in [w for w in self._queue if w.done()]:
            del self._queue[writing]
            writing.result()

    def _put_queued(self, key: str, data: bytes) -> None:
        try:
            self._put(key, data)
        except BaseException:
            self.index.remove(key)
            raise
        finally:
            self._room.release()

    def _put(self, key: str, data: bytes) -> None:
        digest = _crc32(data)
        more = {"metadata" if self.scheme == "gs" else "Metadata": {_DIGEST: digest}}
        self.before_write()
        self._request(key, lambda fs: fs.pipe_file(self._at(key), data, **more))
        self.index.add(key, Known(digest, len(data)), data)

    def upload(self, source: pathlib.Path, key: str) -> None:
        """Writes a file of a disk as an object."""
        size = source.stat().st_size
        if size <= _WHOLE:
            self._put(key, source.read_bytes())
            return
        self.before_write()
        self._request(key, lambda fs: fs.put_file(str(source), self._at(key)))
        self.index.add(key, Known("", size))

    def download(self, key: str, target: pathlib.Path, size: int | None) -> None:
        """Writes an object of so many bytes into a file of a disk. Raises FileNotFoundError."""
        if size is None or size > _WHOLE:
            self._request(key, lambda fs: fs.get_file(self._at(key), str(target)), may_miss=True)
        else:
            target.write_bytes(self.read(key))

    def delete(self, keys: Collection[str]) -> None:
        """Deletes objects, those that are there; many in one request where the store can do that."""
        self.flush()
        if not keys:
            return
        self.before_write()

        try:
            if len(keys) == 1 or any(character in key for key in keys for character in "*?["):  # rm takes patterns
                raise FileNotFoundError
            self._request("", lambda fs: fs.rm([self._at(key) for key in keys]), may_miss=True)
        except FileNotFoundError:  # one of them is gone, and others perhaps not yet
            self.each(self._delete_one, list(keys))
        for key in keys:
            self.index.remove(key)

    def move(self, source: str, target: str) -> None:
        """Copies what is at or below a key within the bucket, several objects at a time, then deletes it there."""
        self.flush()
        self.before_write()
        found = self.under(source) or {source: Known()}

        def copy(key: str) -> None:
            to = target + key.removeprefix(source)
            self._request(key, lambda fs: fs.cp_file(self._at(key), self._at(to)))
            self.index.add(to, found[key])

        self.each(copy, list(found))
        self.delete(list(found))

    def _delete_one(self, key: str) -> None:
        def request(fs: Any) -> None:
            try:
                fs.rm_file(self._at(key))
            except FileNotFoundError:
                return

        self._request(key, request)

    def each(self, work: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """`work` of each item, several at a time, in threads of their own."""
        if len(items) < 2:
            return [work(item) for item in items]
        with concurrent.futures.ThreadPoolExecutor(min(_THREADS, len(items)), "objects") as threads:
            return list(threads.map(work, items))


def _crc32(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


@functools.cache
def bucket(scheme: str, name: str) -> Bucket:
    """The one of this name, alike in all threads."""
    return Bucket(scheme, name)
