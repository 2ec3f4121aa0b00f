"""What a cell's data files held when it was run: a file's name stays the same when its content changes."""

import functools
import hashlib
from pathlib import Path

from ilf_jax import config as config_lib
from ilf_jax.runtime import storage

_SCHEME = "jsonl:"


def of(config: config_lib.Config) -> dict[str, str]:
    """SHA-256 of each local file of data by the key that names it. A file that cannot be read has none."""
    sources = {
        "data.source": config.data.source, "data.eval_source": config.data.eval_source,
        "reward.source": config.reward.source, "reward.eval_source": config.reward.eval_source}
    digests = {key: _of_file(uri.removeprefix(_SCHEME)) for key, uri in sources.items()
               if uri is not None and uri.startswith(_SCHEME)}
    return {key: digest for key, digest in digests.items() if digest}


def _of_file(name: str) -> str:
    path = storage.path(name)
    if not storage.is_local(path):
        return ""
    try:
        facts = path.stat()
        return _digest(storage.local(name), facts.st_size, facts.st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(maxsize=256)  # the cells of a sweep mostly read the same file
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
