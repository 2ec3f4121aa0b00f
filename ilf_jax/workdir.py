"""The run's folder: who may write it, what is already done, and writing that a kill at any instant cannot spoil.

    config.json                               what the run was started with
    iteration_001/<stage>/NNNNN-of-NNNNN.jsonl  records, a shard a file
    iteration_001/<stage>/manifest.json         written when a stage begins, and again, complete, when it ends
    iteration_001/checkpoint/                 params after the iteration
    metrics.jsonl                             made anew from the manifests

A file appears under its name only once it is whole (written aside, synced, renamed). What exists is therefore true.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ilf_jax import records
from ilf_jax.errors import InputError

R = TypeVar("R")
_MAY_CHANGE = frozenset({"iterations"})  # more iterations continue a run; all else would mix two runs
_VERSIONED = ("ilf-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


def write_atomically(path: pathlib.Path, text: str) -> None:
    """The file has its old content or the new one, never a part. Raises InputError when the disk is full."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {e.strerror}; what was written before is whole, "
                         "and the same command goes on from there") from e


@contextlib.contextmanager
def full_disk_in_words(folder: pathlib.Path) -> Iterator[None]:
    """Turns a full disk into an InputError, whichever library met it, and whatever type of error it made of that."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        number = e.errno if isinstance(e, OSError) else None
        if number not in (errno.ENOSPC, errno.EDQUOT) and "No space left on device" not in str(e):
            raise
        where = getattr(e, "filename", None) or folder
        raise InputError(f"{where}: cannot be written: No space left on device; what was written before is whole, and "
                         "the same command goes on from there") from e


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise InputError(f"{path}: is no JSON ({e}); restore it, or take another --workdir") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: was not written by ilf_jax; take another --workdir")
    return value


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def config_hash(config: Mapping[str, Any]) -> str:
    """Short digest of a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """One stage of one iteration: its shards, and the manifest that says when they are all there."""

    path: pathlib.Path
    run: dict[str, Any]

    def shard_path(self, index: int, count: int) -> pathlib.Path:
        """Where shard `index` of `count` stands."""
        return self.path / f"{index:05d}-of-{count:05d}.jsonl"

    def write_shard(self, index: int, count: int, rows: Iterable[Any]) -> None:
        """Writes one shard of records."""
        lines = (json.dumps(records.to_json(row), ensure_ascii=False) + "\n" for row in rows)
        write_atomically(self.shard_path(index, count), "".join(lines))

    def has_shard(self, index: int, count: int) -> bool:
        """Whether that shard is there."""
        return self.shard_path(index, count).exists()

    def read_shard(self, cls: type[R], index: int, count: int) -> list[R]:
        """The records of one shard."""
        # Not splitlines(): texts may hold U+2028 and the like, which JSON does not escape.
        lines = self.shard_path(index, count).read_text(encoding="utf-8").split("\n")
        return [records.from_json(cls, json.loads(line)) for line in lines if line]

    def read(self, cls: type[R]) -> dict[str, R]:
        """All records of a complete stage by id. Raises InputError if a shard is gone."""
        count = self.manifest()["shards"]
        missing = [i for i in range(count) if not self.has_shard(i, count)]
        if missing:
            raise InputError(f"{self.shard_path(missing[0], count)}: is gone although the stage's manifest calls it "
                             "complete; restore it, or delete the stage's folder to do it again")
        return {row.id: row for i in range(count) for row in self.read_shard(cls, i, count)}

    def manifest(self) -> dict[str, Any]:
        """What the manifest says; {'complete': False} where there is none."""
        path = self.path / "manifest.json"
        return _read_json(path) if path.exists() else {"complete": False}

    @property
    def complete(self) -> bool:
        """Whether the stage is done."""
        return self.manifest()["complete"]

    def begin(self, **facts: Any) -> None:
        """Notes that the stage has begun."""
        self._write_manifest({"complete": False, **facts})

    def finish(self, *, shards: int, count: int, metrics: Sequence[Mapping[str, Any]], **facts: Any) -> None:
        """Notes that the stage is complete, with the metrics that it measured."""
        self._write_manifest({"complete": True, "shards": shards, "count": count, **facts, "metrics": list(metrics)})

    def _write_manifest(self, content: dict[str, Any]) -> None:
        text = json.dumps({**content, **self.run}, indent=1)
        write_atomically(self.path / "manifest.json", text + "\n")


class Workdir:
    """The folder of one run. Use `open_workdir` to get one."""

    def __init__(self, path: pathlib.Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._run = {"config_hash": config_hash({k: v for k, v in config.items() if k not in _MAY_CHANGE}),
                     "versions": versions()}

    def iteration(self, k: int) -> pathlib.Path:
        """Folder of iteration k; iteration 0 is the evaluation before training."""
        return self.path / f"iteration_{k:03d}"

    def stage(self, k: int, name: str) -> StageFolder:
        """Folder of a stage of iteration k."""
        return StageFolder(self.iteration(k) / name, self._run)

    def checkpoint(self, k: int) -> pathlib.Path:
        """Where the params after iteration k are."""
        return self.iteration(k) / "checkpoint"

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics of the complete stages, oldest first."""
        rows = []
        order = {name: i for i, name in enumerate(("draft", "feedback", "refine", "score", "finetune", "evaluate"))}
        for folder in sorted(self.path.glob("iteration_[0-9]*")):
            for manifest in sorted(folder.glob("*/manifest.json"), key=lambda p: order.get(p.parent.name, 99)):
                rows += _read_json(manifest).get("metrics", [])
        return rows

    def write_metrics(self) -> list[dict[str, Any]]:
        """Makes metrics.jsonl anew, so that a resumed run holds no metric twice. Returns the metrics."""
        rows = self.metrics()
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return rows


def open_workdir(path: str | pathlib.Path, config: dict[str, Any]) -> tuple[Workdir, Any]:
    """Takes the folder for this run: locks it, and checks that it was begun with the same configuration.

    Returns:
        The Workdir, and the lock: an open file that must be kept as long as the run writes. The system drops it with
        the process, however that ends.

    Raises:
        InputError: another process uses the folder, it cannot be written, it belongs to a run with another
            configuration (the differences are shown), or it holds something else.
    """
    path = pathlib.Path(path).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("a+")
    except OSError as e:
        raise InputError(f"--workdir {path}: cannot be written: {e.strerror}") from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        raise InputError(f"--workdir {path}: another process is using it; wait for it or take another folder") from e
    config = json.loads(json.dumps(config))
    saved = path / "config.json"
    if saved.exists():
        before = _read_json(saved)
        different = _differences(before, config)
        if different:
            lines = "\n".join(f"  config.{key}: {old!r} -> {new!r}" for key, old, new in different)
            raise InputError(f"--workdir {path}: holds a run with another configuration:\n{lines}\n"
                             "give the same configuration to go on with it, or another --workdir to begin anew")
    elif any(p.name.startswith("iteration_") for p in path.iterdir()):
        raise InputError(f"--workdir {path}: holds iterations but no config.json; take another folder")
    write_atomically(saved, json.dumps(config, indent=1) + "\n")
    return Workdir(path, config), lock


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and not (prefix + key in _MAY_CHANGE and isinstance(a, int) and isinstance(b, int) and b > a):
            found.append((prefix + key, a, b))
    return found
