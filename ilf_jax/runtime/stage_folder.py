"""The folder of one stage of an iteration: shards of records, and the manifest that says whether it is complete.

While the stage is under way, a hidden file beside each shard holds its digest; once it is complete, the manifest does.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ilf_jax import records
from ilf_jax.errors import InputError
from ilf_jax.runtime import digests, distributed, manifests, os_errors, storage
from ilf_jax.runtime.files import read_json_lines, read_lines, write_json, write_lines
from ilf_jax.runtime.garbage import seldom_searched_for

R = TypeVar("R", bound=records.Record)
RECORDS_IN = "records_in"
"""Key of a manifest whose stage shares the records of another folder: the relative path of that folder."""
_to_line = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one a line
_CURE_OF_SHARD = ("restore it, or delete it while its stage is under way; once that is complete, delete the stage's "
                  "folder and what comes after it")


def config_hash(config: Mapping[str, Any]) -> str:
    """Short digest of a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """One stage of one iteration: its shards, and the manifest that says whether it is complete."""

    path: storage.Path
    run: dict[str, Any]

    def shard_path(self, index: int, count: int) -> storage.Path:
        """The file of shard `index` of `count`."""
        return self.path / f"{index:05d}-of-{count:05d}.jsonl"

    def write_shard(self, index: int, count: int, rows: Iterable[Any]) -> None:
        """Writes one shard of records. Processes take turns: each writes its own.

        Raises:
            InputError: it cannot be written, or a record holds what none may, NaN for example.
        """
        if index % distributed.count() != distributed.index():
            return
        self._check_there()
        try:
            text = "".join(_to_line(records.to_json(row)) + "\n" for row in rows)
        except ValueError as e:
            raise InputError(f"{self.path.parent.name}, {self.path.name}: {e}, which no record may be; of a number, "
                             "check what computed it: a model's weights and config.precision, or your function") from e
        write_lines(self.shard_path(index, count), text, soon=True)

    def _check_there(self) -> None:
        if storage.is_local(self.path) and not self.path.exists():  # writing would make it again, without its content
            raise InputError(f"{self.path}: cannot be written: {os_errors.REMOVED}")

    def missing_shards(self, count: int) -> list[int]:
        """Indices of the shards, of `count`, that are still to be written."""
        there = set(distributed.on_main(lambda: sorted(storage.names(self.path))))
        return [i for i in range(count) if self.shard_path(i, count).name not in there]

    def verify_written(self, count: int) -> None:
        """Raises InputError if a shard, of `count`, of this stage under way is there and not what was written."""

        def check() -> None:
            there = storage.names(self.path)
            paths = (self.shard_path(i, count) for i in range(count))
            for path in storage.ahead([path for path in paths if path.name in there]):
                read_lines(path, _CURE_OF_SHARD)

        distributed.on_main(check)

    @seldom_searched_for()
    def read_shard(self, cls: type[R], index: int, count: int) -> list[R]:
        """The records of one shard, of a stage that is under way.

        Raises:
            InputError: it is not what was written.
        """
        return self._read_shard(cls, index, count, None)

    def _read_shard(self, cls: type[R], index: int, count: int, digest: str | None) -> list[R]:
        path = self.shard_path(index, count)
        lines = read_lines(path, _CURE_OF_SHARD, digest)
        if digest is not None or digests.noted_beside(path):
            with contextlib.suppress(ValueError):  # what is wrong with a line is found below
                return [records.from_written_line(cls, line) for line in lines if line.strip()]
        rows = []
        for number, row in read_json_lines(path, _CURE_OF_SHARD, digest=digest):
            try:
                rows.append(records.from_json(cls, row))
            except (TypeError, ValueError) as e:
                raise InputError(f"{path}:{number}: is no {cls.__name__}: {e}; {_CURE_OF_SHARD}") from e
        return rows

    @seldom_searched_for()
    def read(self, cls: type[R]) -> dict[str, R]:
        """All records of a complete stage by id. Raises InputError if a shard is gone, or not what was written."""
        manifest = self.manifest()
        count, owner = manifest["shards"], self
        of_shards = manifest.get(manifests.DIGESTS) or [None] * count
        if RECORDS_IN in manifest:
            owner = dataclasses.replace(self, path=_resolved(self.path, manifest[RECORDS_IN]))
        missing = owner.missing_shards(count)
        if missing:
            raise InputError(f"{owner.shard_path(missing[0], count)}: is missing although the stage's manifest calls "
                             "it complete; restore it, or delete the stage's folder to run the stage again")
        return {row.id: row for i in range(count) for row in owner._read_shard(cls, i, count, of_shards[i])}

    def manifest(self) -> dict[str, Any]:
        """The manifest; {'complete': False} if there is none."""
        path = self.path / "manifest.json"
        return distributed.on_main(lambda: manifests.read(path) if path.exists() else {"complete": False})

    @property
    def complete(self) -> bool:
        """Whether the stage is done."""
        return self.manifest()["complete"]

    def verify(self) -> None:
        """Raises InputError if a shard of this complete stage, or its log of steps, is not what was written.

        A shard that is gone is missed by whoever reads it.
        """
        manifest = self.manifest()

        def check() -> None:
            noted = dict(enumerate(manifest.get(manifests.DIGESTS, ()))) if RECORDS_IN not in manifest else {}
            files_of = {self.shard_path(i, manifest["shards"]): digest for i, digest in noted.items()}
            if manifests.STEPS_DIGEST in manifest:
                files_of[self.path / "steps.jsonl"] = manifest[manifests.STEPS_DIGEST]
            there = storage.names(self.path)
            for path in storage.ahead([path for path in files_of if path.name in there]):
                read_lines(path, _CURE_OF_SHARD, files_of[path])

        distributed.on_main(check)

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
        """Writes the manifest of a complete stage. The only function that does.

        Args:
            shards: how many files the records fill.
            count: of records.
            metrics: lines of metrics.jsonl.
            facts: what else the manifest holds; `cost` goes to performance.jsonl.
        """
        storage.flush(self.path)
        distributed.barrier()  # every process has written its shards
        self._check_there()
        self._write_manifest({"complete": True, "shards": shards, "count": count, "finished": time.time(), **facts,
                              "metrics": list(metrics)}, [self.shard_path(i, shards) for i in range(shards)])

    def _write_manifest(self, content: dict[str, Any], shards: Sequence[storage.Path] = ()) -> None:
        """With the digests that are noted beside the shards, which are then no longer needed there."""

        def write() -> None:
            noted = {manifests.DIGESTS: [digests.newest(path) for path in shards]} if shards else {}
            write_json(self.path / "manifest.json", {**content, **noted, **self.run})
            for path in shards:
                digests.forget_beside(path)

        distributed.on_main(write)


def _resolved(path: storage.Path, relative: str) -> storage.Path:
    """A relative path from a folder; an object store does not know '..'."""
    for part in relative.split("/"):
        path = path.parent if part == ".." else path / part
    return path
