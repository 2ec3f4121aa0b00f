"""Where Orbax writes and reads: on a disk in place; for a bucket, on this machine's disk, from which we copy.

That way, one patience holds for all requests, s3:// works as gs:// does, and files travel several at a time. Several
processes on gs:// let Orbax write there itself (`is_direct`), each its own shards; on s3://, process 0 writes for all.
"""

import concurrent.futures
import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

from ilf_jax.errors import InputError
from ilf_jax.runtime import bucket_path, distributed, storage

COMPLETE = "commit_success.txt"
"""The last object of a checkpoint in a bucket, empty. Orbax's name for it, so that Orbax reads what we upload."""

_uploads = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")


def is_direct(place: storage.Path) -> bool:
    """Whether Orbax itself reads and writes a checkpoint there."""
    return storage.is_local(place) or (distributed.count() > 1 and str(place).startswith("gs://"))


def is_complete(place: storage.Path) -> bool:
    """Whether a checkpoint in a bucket is there as a whole."""
    return COMPLETE in storage.names(place)


@contextlib.contextmanager
def to_read(place: storage.Path) -> Iterator[storage.Path]:
    """Where Orbax reads a checkpoint from: its place, or a copy of it.

    Raises:
        InputError: this machine's disk has no room for the copy.
    """
    if is_direct(place) or not isinstance(place, storage.BucketPath):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="ilf_jax-") as temporary:
        copy = pathlib.Path(temporary) / "checkpoint"
        bucket_path.copy_out(place, copy, say=lambda size: _check_room(size, place, copy.parent))
        yield copy


def write(place: storage.BucketPath, size: int, start: Callable[[pathlib.Path], Callable[[], None]]) -> Callable[
        [], None]:
    """Begins to write a checkpoint, which replaces what is there.

    Args:
        place: in a bucket.
        size: bytes of its arrays.
        start: has Orbax begin to write to a folder on a disk; what it returns waits for the end of that.

    Returns:
        Waits until the checkpoint is in its place as a whole.

    Raises:
        InputError: this machine's disk has no room for it.
    """
    temporary = tempfile.mkdtemp(prefix="ilf_jax-")
    try:
        _check_room(size, place, pathlib.Path(temporary))
        copy = pathlib.Path(temporary) / "checkpoint"
        wait = start(copy)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

    def upload() -> None:
        try:
            wait()
            (copy / COMPLETE).unlink(missing_ok=True)  # Orbax writes one here, too
            (place / COMPLETE).unlink(missing_ok=True)  # first: what is left of an earlier one is no checkpoint
            place.rmtree()
            bucket_path.copy_in(copy, place)
            (place / COMPLETE).write_bytes(b"")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    return _uploads.submit(upload).result


def _check_room(size: int, place: storage.BucketPath, folder: pathlib.Path) -> None:
    storage.say_size(size, "a checkpoint", f"{place} through {folder}")
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(f"{place}: a checkpoint of {size / 1e9:.1f} GB goes through {folder.parent}, which has "
                         f"{free / 1e9:.1f} GB left; free some space, or set TMPDIR to a folder on a larger disk")
