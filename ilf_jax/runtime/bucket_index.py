"""What this process knows about the objects of a bucket without asking: names, digests, small contents."""

import collections
import threading
from collections.abc import Mapping
from typing import NamedTuple

_MAX_BYTES = 128 << 20
_MAX_OBJECT = 16 << 20


class Known(NamedTuple):
    """Of an object: the digest noted when it was written ('' if none was), its bytes; None where not known."""

    digest: str | None = None
    size: int | None = None


class Index:
    """Names are keys such as 'run/config.json'. A folder is there while a name begins with it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, Known] = {}  # that are known to exist
        self._children: dict[str, dict[str, int]] = {}  # folder -> name in it -> objects under that name
        self._complete: set[str] = set()  # folders of which everything is known
        self._contents: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._bytes = 0

    def note_all(self, folder: str, objects: Mapping[str, Known]) -> None:
        """Exactly these objects are in a folder and those below it; from now on only this process changes that."""
        with self._lock:
            for key in self.under(folder):
                if key not in objects:
                    self.remove(key)
            for key, known in objects.items():
                self.add(key, known)
            self._complete.add(folder)

    def knows_all(self, key: str) -> bool:
        """Whether an object of this name, or in this folder, that is not known does not exist."""
        with self._lock:
            return any(key == folder or key.startswith(f"{folder}/") or not folder for folder in self._complete)

    def add(self, key: str, known: Known, data: bytes | None = None) -> None:
        """Notes an object, and its content."""
        with self._lock:
            before = self._objects.get(key)
            if before is None:
                self._count(key, 1)
            elif known.digest is None:
                known = known._replace(digest=before.digest)
            self._objects[key] = known
            if data is not None:
                self._keep(key, data)

    def remove(self, key: str) -> None:
        """Notes that an object is gone."""
        with self._lock:
            if key in self._objects:
                del self._objects[key]
                self._count(key, -1)
            self._bytes -= len(self._contents.pop(key, b""))

    def has(self, key: str) -> bool:
        """Whether an object of this name, or a folder, is known to exist."""
        with self._lock:
            return key in self._objects or key in self._children

    def is_folder(self, key: str) -> bool:
        """Whether objects are known in it."""
        with self._lock:
            return key in self._children

    def of(self, key: str) -> Known:
        """What is known of an object."""
        with self._lock:
            return self._objects.get(key, Known())

    def content(self, key: str) -> bytes | None:
        """Of an object, where it is still held."""
        with self._lock:
            if key in self._contents:
                self._contents.move_to_end(key)
            return self._contents.get(key)

    def names(self, folder: str) -> list[str]:
        """Of what is known in a folder, sorted."""
        with self._lock:
            return sorted(self._children.get(folder, ()))

    def under(self, folder: str) -> list[str]:
        """The keys of all objects known in a folder and below."""
        with self._lock:
            found = [folder] if folder in self._objects else []
            for name in self.names(folder):
                found += self.under(f"{folder}/{name}" if folder else name)
            return found

    def _count(self, key: str, change: int) -> None:
        while key:
            folder, _, name = key.rpartition("/")
            inside = self._children.setdefault(folder, {})
            inside[name] = inside.get(name, 0) + change
            if not inside[name]:
                del inside[name]
            if not inside:
                del self._children[folder]
            key = folder

    def _keep(self, key: str, data: bytes) -> None:
        self._bytes -= len(self._contents.pop(key, b""))
        if len(data) > _MAX_OBJECT:
            return
        self._contents[key] = data
        self._bytes += len(data)
        while self._bytes > _MAX_BYTES:
            self._bytes -= len(self._contents.popitem(last=False)[1])
