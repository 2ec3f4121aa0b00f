"""One server for a store: a lock on its folder, on a file system where locks work."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from ilf_jax.errors import InputError
from ilf_jax.runtime import files


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """Inside, no other server has the folder, which is created if need be. A killed process loses its lock.

    Raises:
        InputError: another server has it, it cannot be written, or its file system has no working locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: cannot be made: {e.strerror or e}") from e
    with files.lock(folder, f"{folder}: another reviewing server is using it; end that one, or open its page"):
        if not locks_work(folder):
            raise InputError(f"{folder}: is on a file system without working locks, where two servers could spoil the "
                             "store; name a folder of a local disk with --state=DIR")
        yield


def locks_work(folder: pathlib.Path) -> bool:
    """Whether a lock that one opening of a file holds keeps another from it: on some network file systems it does not.
    """
    path = folder / ".lock_probe"
    try:
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
