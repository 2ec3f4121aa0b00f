"""Digests of a run's own files: what is read back is what was written, or an error.

A JSON object carries its digest inside (`sealed`); a file of lines has it in a hidden file beside it
(`beside`), in a bucket in the object's metadata, or in the manifest of its stage. A file of lines without a digest,
from an older version or from a user, is read as it is. The digest is CRC-32, which finds every change within 32
neighbouring bits; it protects against damage, not against forgery.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.runtime import storage

SEAL = "crc32_of_the_rest"
"""Key of the digest inside a JSON object."""
_LIST = "digests.json"


class DamagedError(InputError):
    """A file is not what was written."""


def of_bytes(data: bytes) -> str:
    """Eight hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"


def of_text(text: str) -> str:
    """Of the text in UTF-8."""
    return of_bytes(text.encode())


def check(path: storage.Path, data: bytes, digest: str, cure: str) -> None:
    """Raises DamagedError, which names the file and the cure, if data read from it have another digest."""
    if of_bytes(data) != digest:
        raise DamagedError(f"{path}: is damaged: its content is not what was written (CRC-32 {of_bytes(data)}, not "
                           f"{digest}); {cure}")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its digest as last key. Raises ValueError on NaN or infinity."""
    return {**content, SEAL: of_text(_canonical(content))}


def unsealed(path: storage.Path, content: dict[str, Any], cure: str) -> dict[str, Any]:
    """The object without its digest. Raises DamagedError where it has none, or that of something else."""
    if SEAL not in content:
        raise DamagedError(f"{path}: is damaged: it lacks {SEAL!r}, the digest that it was written with; {cure}")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if _digest(rest) != content[SEAL]:
        raise DamagedError(f"{path}: is damaged: its content is not what was written ({SEAL} says "
                           f"{content[SEAL]!r}); {cure}")
    return rest


def _digest(content: Mapping[str, Any]) -> str:
    try:
        return of_text(_canonical(content))
    except (ValueError, RecursionError):  # what cannot be written was not
        return ""


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def beside(path: storage.Path) -> storage.Path:
    """The hidden file with the digest of a file of lines."""
    return path.with_name(f".{path.name}.crc32")


def noted_beside(path: storage.Path) -> list[str]:
    """The digests that a file may have, the newest first: two while it is being replaced, none if none are noted."""
    if isinstance(path, storage.BucketPath):
        try:
            return list(filter(None, [path.digest()]))
        except FileNotFoundError:
            return []
    place = beside(path)
    try:
        return re.findall(r"\b[0-9a-f]{8}\b", place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise DamagedError(f"{place}: cannot be read ({e}); delete it") from e


def newest(path: storage.Path) -> str:
    """The digest that is noted beside a file; of a file from an older version, that of its content."""
    noted = noted_beside(path)
    return noted[0] if noted else of_bytes(path.read_bytes())


def forget_beside(path: storage.Path) -> None:
    """Of a file whose digest is now noted elsewhere."""
    if storage.is_local(path):
        beside(path).unlink(missing_ok=True)


def check_beside(path: storage.Path, data: bytes, cure: str) -> None:
    """Raises DamagedError if the data of a file have another digest than is noted beside it."""
    digests = noted_beside(path)
    if digests and of_bytes(data) not in digests:
        check(path, data, digests[0], cure)


def list_folder(folder: storage.Path) -> dict[str, str]:
    """Digest by file name of what a folder holds, subfolders left out; for a folder on a disk, just written."""
    return {p.name: of_bytes(p.read_bytes()) for p in storage.inside(folder)
            if p.is_file() and not p.name.startswith(".") and p.name != _LIST}


def folder_list(folder: storage.Path) -> storage.Path:
    """The file in which the digests of a folder are noted."""
    return folder / _LIST
