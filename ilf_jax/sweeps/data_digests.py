"""What a cell's data files held when it was run: a file's name stays the same when its content changes."""

import functools
import hashlib
import json
from pathlib import Path

from ilf_jax import config as config_lib
from ilf_jax.data import sources
from ilf_jax.runtime import storage


def of(config: config_lib.Config) -> dict[str, str]:
    """SHA-256 of each local file, or folder, of data by the key that names it. One that cannot be read has none."""
    uris = {
        "data.source": config.data.source, "data.eval_source": config.data.eval_source,
        "reward.source": config.reward.source, "reward.eval_source": config.reward.eval_source}
    names = {key: sources.file_of(uri) for key, uri in uris.items() if uri is not None}
    digests = {key: _of_file(name) for key, name in names.items() if name is not None}
    return {key: digest for key, digest in digests.items() if digest}


def _of_file(name: str) -> str:
    path = storage.path(name)
    if not storage.is_local(path):
        return ""
    try:
        if not path.is_dir():
            return _digest_now(path)
        files = {file: _digest_now(path / file) for file in storage.names_below(path)}
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _digest_now(path: Path) -> str:
    facts = path.stat()
    return _digest(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=256)  # the cells of a sweep mostly read the same file
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
