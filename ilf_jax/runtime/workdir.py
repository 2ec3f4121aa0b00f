"""The run's folder: who may write it, what is already done, and writing that a kill at any instant cannot spoil.

    config.json                               what the run was started with
    iteration_001/<stage>/NNNNN-of-NNNNN.jsonl  records, a shard a file
    iteration_001/<stage>/manifest.json         written when a stage begins, and again, complete, when it ends
    iteration_001/checkpoint/                 params after the iteration
    iteration_000/reward_model/               params of the reward model, where one was trained
    metrics.jsonl                             made anew from the manifests
    performance.jsonl                         likewise: what the stages cost, which no two runs have alike

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
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from ilf_jax import records
from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed, storage

R = TypeVar("R")
RECORDS_IN = "records_in"
"""Key of a manifest whose stage shares the records of another folder: the relative path of that folder."""
_STARTED = ".started.json"  # when the first process of the run took the folder
PARAMS = frozenset({"checkpoint", "reward_model"})
"""Folders that hold params."""
_MAY_CHANGE = frozenset({"iterations"})  # more iterations continue a run; all else would mix two runs
_VERSIONED = ("ilf-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


def write_atomically(path: storage.Path, text: str) -> None:
    """The file has its old content or the new one, never a part. Raises InputError when the disk is full."""
    if not storage.is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
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
def full_disk_in_words(folder: storage.Path) -> Iterator[None]:
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


def _read_json(path: storage.Path) -> dict[str, Any]:
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

    path: storage.Path
    run: dict[str, Any]

    def shard_path(self, index: int, count: int) -> storage.Path:
        """Where shard `index` of `count` stands."""
        return self.path / f"{index:05d}-of-{count:05d}.jsonl"

    def write_shard(self, index: int, count: int, rows: Iterable[Any]) -> None:
        """Writes one shard of records. Processes take turns: each writes its own."""
        if index % distributed.count() != distributed.index():
            return
        lines = (json.dumps(records.to_json(row), ensure_ascii=False) + "\n" for row in rows)
        write_atomically(self.shard_path(index, count), "".join(lines))

    def missing_shards(self, count: int) -> list[int]:
        """Which of `count` shards are not there."""
        return distributed.on_main(lambda: [i for i in range(count) if not self.shard_path(i, count).exists()])

    def read_shard(self, cls: type[R], index: int, count: int) -> list[R]:
        """The records of one shard."""
        # Not splitlines(): texts may hold U+2028 and the like, which JSON does not escape.
        lines = self.shard_path(index, count).read_text(encoding="utf-8").split("\n")
        return [records.from_json(cls, json.loads(line)) for line in lines if line]

    def read(self, cls: type[R]) -> dict[str, R]:
        """All records of a complete stage by id. Raises InputError if a shard is gone."""
        manifest = self.manifest()
        count, owner = manifest["shards"], self
        if RECORDS_IN in manifest:
            owner = dataclasses.replace(self, path=_resolved(self.path, manifest[RECORDS_IN]))
        missing = owner.missing_shards(count)
        if missing:
            raise InputError(f"{owner.shard_path(missing[0], count)}: is missing although the stage's manifest calls "
                             "it complete; restore it, or delete the stage's folder to run the stage again")
        return {row.id: row for i in range(count) for row in owner.read_shard(cls, i, count)}

    def manifest(self) -> dict[str, Any]:
        """What the manifest says; {'complete': False} where there is none."""
        path = self.path / "manifest.json"
        return distributed.on_main(lambda: _read_json(path) if path.exists() else {"complete": False})

    @property
    def complete(self) -> bool:
        """Whether the stage is done."""
        return self.manifest()["complete"]

    def begin(self, **facts: Any) -> None:
        """Notes that the stage has begun, and `facts` that a resumed run needs; without facts, what was noted stays."""
        if facts or "config_hash" not in self.manifest():
            self._write_manifest({"complete": False, **facts})

    def link(self, source: "StageFolder") -> None:
        """Completes the stage with the records of another folder, which depend on equal settings."""
        manifest = source.manifest()
        facts = {k: v for k, v in manifest.items() if k not in (*self.run, "cost")}
        self._write_manifest({**facts, RECORDS_IN: os.path.relpath(str(source.path), str(self.path))})

    def finish(self, *, shards: int, count: int, metrics: Sequence[Mapping[str, Any]], **facts: Any) -> None:
        """Notes that the stage is complete, with the metrics that it measured."""
        distributed.barrier()  # all shards are there
        self._write_manifest({"complete": True, "shards": shards, "count": count, "finished": time.time(), **facts,
                              "metrics": list(metrics)})

    def _write_manifest(self, content: dict[str, Any]) -> None:
        text = json.dumps({**content, **self.run}, indent=1)
        distributed.on_main(lambda: write_atomically(self.path / "manifest.json", text + "\n"))


def _resolved(path: storage.Path, relative: str) -> storage.Path:
    """A relative path from a folder; an object store does not know '..'."""
    for part in relative.split("/"):
        path = path.parent if part == ".." else path / part
    return path


class Workdir:
    """The folder of one run. Use `open_workdir` to get one."""

    def __init__(self, path: storage.Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._run = {"config_hash": config_hash({k: v for k, v in config.items() if k not in _MAY_CHANGE}),
                     "versions": versions()}

    def iteration(self, k: int) -> storage.Path:
        """Folder of iteration k; iteration 0 is the evaluation before training."""
        return self.path / f"iteration_{k:03d}"

    def stage(self, k: int, name: str) -> StageFolder:
        """Folder of a stage of iteration k."""
        return StageFolder(self.iteration(k) / name, self._run)

    def checkpoint(self, k: int) -> storage.Path:
        """Where the params after iteration k are."""
        return self.iteration(k) / "checkpoint"

    @property
    def reward_model(self) -> storage.Path:
        """Where the params of the reward model that this run has trained are."""
        return self.iteration(0) / "reward_model"

    def _manifests(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(Iteration, stage, manifest) of all stages, oldest first."""
        order = {name: i for i, name in enumerate(records.OF_STAGES)}
        for folder in sorted(p for p in self.path.iterdir() if re.fullmatch(r"iteration_\d+", p.name)):
            for stage in sorted(folder.iterdir(), key=lambda p: order.get(p.name, 99)):
                if (stage / "manifest.json").exists():
                    yield int(folder.name.removeprefix("iteration_")), stage.name, _read_json(stage / "manifest.json")

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics of the complete stages, oldest first."""
        return [row for _, _, manifest in self._manifests() for row in manifest.get("metrics", [])]

    def performance(self) -> list[dict[str, Any]]:
        """What the complete stages cost, in the form of metrics, named performance/...; at the end the goodput.

        Goodput: the stages' seconds, compiling left out, over those from the first process's start to the last stage's
        end, in which the run may have stood still. Of a stage that was interrupted only the last process's work counts.
        """
        rows, productive, end = [], 0.0, 0.0
        for k, stage, manifest in self._manifests():
            cost = manifest.get("cost", {})
            rows += [_performance(k, stage, name, value) for name, value in cost.items()]
            productive += cost.get("seconds", 0.0) - cost.get("compile_seconds", 0.0)
            end = max(end, manifest.get("finished", 0.0))
        started = _read_json(self.path / _STARTED)["time"] if (self.path / _STARTED).exists() else end
        if rows and end > started:
            rows.append(_performance(rows[-1]["iteration"], "run", "goodput", max(0.0, productive) / (end - started)))
        return rows

    def write_metrics(self) -> list[dict[str, Any]]:
        """Makes metrics.jsonl and performance.jsonl anew, so that a resumed run holds nothing twice.

        Returns:
            The metrics.
        """

        def write() -> list[dict[str, Any]]:
            rows = self.metrics()
            for name, lines in (("metrics", rows), ("performance", self.performance())):
                write_atomically(self.path / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in lines))
            return rows

        return distributed.on_main(write)


def open_workdir(
    path: str | pathlib.Path, config: dict[str, Any], metric_directions: Mapping[str, str] = MappingProxyType({})
) -> tuple[Workdir, contextlib.ExitStack]:
    """Takes the folder for this run: locks it, and checks that it was begun with the same configuration.

    Returns:
        The Workdir, and the lock: a context to be left when the run no longer writes. The system drops it with the
        process, however that ends. Process 0 holds it for all. In an object store there is none.

    Raises:
        InputError: another process uses the folder, it cannot be written, it belongs to a run with another
            configuration (the differences are shown), or it holds something else.
    """
    path = storage.path(path)
    config = json.loads(json.dumps(config))
    held = contextlib.ExitStack()
    distributed.on_main(lambda: _take(path, config, held))
    return Workdir(path, config), held


def _lock(path: pathlib.Path) -> Any:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("a+")
    except OSError as e:
        raise InputError(f"--workdir {path}: cannot be written: {e.strerror}") from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        raise InputError(f"--workdir {path}: another process is using it; wait for it or take another folder") from e
    return lock


def _take(path: storage.Path, config: dict[str, Any], held: contextlib.ExitStack) -> None:
    if storage.is_local(path):
        held.enter_context(_lock(path))
    else:  # an object store has no locks
        path.mkdir(parents=True, exist_ok=True)
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
    if not (path / _STARTED).exists():
        write_atomically(path / _STARTED, json.dumps({"time": time.time()}) + "\n")


def _performance(iteration: int, stage: str, name: str, value: float) -> dict[str, Any]:
    return {"iteration": iteration, "stage": stage, "metric": f"performance/{name}", "value": float(value),
            "stderr": None, "n": None}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and not (prefix + key in _MAY_CHANGE and isinstance(a, int) and isinstance(b, int) and b > a):
            found.append((prefix + key, a, b))
    return found
