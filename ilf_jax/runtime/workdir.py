"""The run's folder: who may write to it, what is already done, and writing that survives a kill at any instant.

    config.json                               what the run was started with, or went on with
    changes.jsonl                             what of it has been changed since, if anything (--allow_change)
    run.json                                  the folder's format, when the run began, which way each metric improves,
                                              and of each start the command, the hardware and the commit
    iteration_001/<stage>/NNNNN-of-NNNNN.jsonl  records, a shard a file
    iteration_001/<stage>/manifest.json         written when a stage begins, and again, complete, when it ends
    iteration_001/checkpoint/                 params after the iteration
    iteration_000/reward_model/               params of the reward model, if the run trains one
    metrics.jsonl                             rebuilt from the manifests
    performance.jsonl                         likewise: what the stages cost, which differs from run to run

Every file is written by `files.write_atomically`: it appears under its name only once it is complete. JSON objects hold
a digest, manifests also those of the stage's shards; while a stage is under way, and for other files of lines, a hidden
file beside each holds it. So whatever is there is valid, or refused.
"""

import contextlib
import datetime
import json
import os
import time
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.runtime import config_changes, distributed, lease, manifests, provenance, storage
from ilf_jax.runtime.files import lock, read_json, read_sealed, write_json, write_lines
from ilf_jax.runtime.stage_folder import StageFolder, config_hash
from ilf_jax.runtime.told import Board, Told
from ilf_jax.version import __version__

FORMAT = 2
"""Of the work folder. It changes with what the files mean or where they are; format 1 had no run.json."""
NOT_REPORTED = frozenset({"checkpoint", "reward_model", "state", "tensorboard", "profile", "api_answers"})
"""Folders that no report reads: params, states of trainings, what other programs show, what endpoints answered."""
_RUN = "run.json"
_CURE = "restore it, or take another --workdir"


class Workdir:
    """The folder of one run. Use `open_workdir` to get one.

    Attributes:
        told: whoever is told of new metrics, once somebody is.
        board: what shows the run while it is under way, if anything does.
    """

    def __init__(self, path: storage.Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.told: Told | None = None
        self.board: Board | None = None
        self._run = {"config_hash": config_hash({k: v for k, v in config.items() if k not in config_changes.MAY_GROW}),
                     "versions": provenance.versions()}

    @property
    def started(self) -> datetime.datetime:
        """When the run began, in UTC: alike in every process, and however often the run is resumed."""
        seconds = distributed.on_main(lambda: read_run_facts(self.path)["started"])
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

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
        """Where the params of the reward model that this run trains are."""
        return self.iteration(0) / "reward_model"

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics of the complete stages, oldest first."""
        return [row for _, _, manifest in manifests.of_stages(self.path) for row in manifest.get("metrics", [])]

    def performance(self) -> list[dict[str, Any]]:
        """What the complete stages cost, as metrics named performance/...; the last one is the goodput.

        Goodput: the stages' seconds without compilation, divided by those from the run's first start to the end of its
        last stage, idle time included. Of an interrupted stage only the last process's work counts.
        """
        rows, productive, end = [], 0.0, 0.0
        for k, stage, manifest in manifests.of_stages(self.path):
            cost = manifest.get("cost", {})
            rows += [_performance(k, stage, name, value) for name, value in cost.items()]
            productive += cost.get("seconds", 0.0) - cost.get("compile_seconds", 0.0)
            end = max(end, manifest.get("finished", 0.0))
        started = read_run_facts(self.path)["started"]
        if rows and end > started:
            rows.append(_performance(rows[-1]["iteration"], "run", "goodput", max(0.0, productive) / (end - started)))
        return rows

    def tell(self) -> None:
        """Tells whoever is to be told of complete stages, see `Told.tell`. On process 0."""
        if self.told is not None:
            self.told.tell(self.path)

    def on_step(self, stage: str, iteration: int) -> Callable[[int, Mapping[str, Any]], None] | None:
        """Who is to be told of the steps of a training; None where nobody is."""
        return None if self.board is None else self.board.steps(stage, iteration)

    def write_metrics(self) -> list[dict[str, Any]]:
        """Rebuilds metrics.jsonl and performance.jsonl, so that a resumed run has no duplicates.

        Returns:
            The metrics.
        """

        def write() -> list[dict[str, Any]]:
            rows, costs = self.metrics(), self.performance()
            for name, lines in (("metrics", rows), ("performance", costs)):
                text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in lines)
                write_lines(self.path / f"{name}.jsonl", text, soon=True)
            self.tell()
            if self.board is not None:
                self.board.show([*rows, *costs])
            return rows

        return distributed.on_main(write)


def open_workdir(
    where: str | os.PathLike[str], config: dict[str, Any],
    metric_directions: Mapping[str, str] = types.MappingProxyType({}), allow_change: Collection[str] = (),
    start: Mapping[str, Any] | None = None,
) -> tuple[Workdir, contextlib.ExitStack]:
    """Takes the folder for this run: locks it, and checks that it was begun with the same configuration.

    Args:
        metric_directions: name of a metric of the task -> "lower" or "higher", whichever is better; for reports.
        allow_change: sections of the configuration, or keys, that may differ from the folder's where no stage that
            reads them has begun; what changes is noted in changes.jsonl.
        start: how this process was started, see `provenance.here`; noted in run.json.

    Returns:
        The Workdir, and the lock: a context to exit when the run no longer writes. The system drops it with the
        process. Process 0 holds it for all.

    Raises:
        InputError: another process uses the folder, it cannot be written, it has another format, it belongs to a run
            with another configuration (the differences are shown), or it holds something else.
    """
    path = storage.path(where)
    config = json.loads(json.dumps(config))
    stack = contextlib.ExitStack()
    try:
        distributed.on_main(lambda: _take(path, config, dict(metric_directions), allow_change, start, stack))
    except BaseException:
        stack.close()
        raise
    return Workdir(path, config), stack


def check_config(
    path: storage.Path, config: Mapping[str, Any], allow_change: Collection[str]
) -> list[config_changes.Difference]:
    """What differs between the configuration of a work folder, if it is one, and another that may take its place.

    Raises:
        InputError: it may not: something differs that is not allowed to, or that a stage has read.
    """
    saved = path / "config.json"
    if not saved.exists():
        return []
    changes = config_changes.differences(read_sealed(saved, _CURE), config)
    config_changes.check(path, changes, allow_change)
    return changes


def read_run_facts(path: storage.Path) -> dict[str, Any]:
    """run.json of a work folder: format, started (unix time), metric_directions, maybe starts (see `provenance`).

    Raises:
        InputError: the folder was written in another format.
    """
    facts: dict[str, Any] = read_json(path / _RUN, _CURE) if (path / _RUN).exists() else {"format": 1}
    if facts.get("format") != FORMAT:
        raise InputError(f"{path}: is a work folder of format {facts.get('format')}; this version of ilf_jax "
                         f"({__version__}) reads and writes format {FORMAT}: take another --workdir, or the version "
                         "that wrote the folder")
    facts = read_sealed(path / _RUN, _CURE)
    directions = facts.setdefault("metric_directions", {})
    if not manifests.is_finite(facts.get("started")) or not 0 <= facts["started"] < 1e11:
        raise InputError(f"{path / _RUN}: started is not a time; {_CURE}")
    if not isinstance(directions, dict) or not set(map(str, directions.values())) <= {"lower", "higher"}:
        raise InputError(f"{path / _RUN}: metric_directions is no list of lower and higher by metric; {_CURE}")
    starts = facts.get("starts", [])
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise InputError(f"{path / _RUN}: starts is no list of objects; {_CURE}")
    return facts


def _take(
    path: storage.Path, config: dict[str, Any], metric_directions: dict[str, str], allow_change: Collection[str],
    start: Mapping[str, Any] | None, stack: contextlib.ExitStack,
) -> None:
    taken = f"--workdir {path}: another process is using it; wait for it or take another folder"
    stack.enter_context(lease.held(path) if isinstance(path, storage.BucketPath) else lock(path, taken))
    storage.own(path)
    stack.callback(storage.flush, path)
    saved = path / "config.json"
    started, starts = time.time(), []
    if saved.exists():
        facts = read_run_facts(path)
        started, starts = facts["started"], facts.get("starts", [])
        changes = check_config(path, config, allow_change)
        if changes:
            config_changes.accept(path, changes)
    elif any(p.name.startswith("iteration_") for p in path.iterdir()):
        raise InputError(f"--workdir {path}: holds iterations but no config.json; take another folder")
    # Before config.json, without which the folder counts as new.
    starts = provenance.remember(starts, start) if start is not None else starts
    facts = {"format": FORMAT, "started": started, "metric_directions": metric_directions}
    facts |= {"starts": starts} if starts else {}
    write_json(path / _RUN, facts)
    write_json(saved, config)


def _performance(iteration: int, stage: str, name: str, value: float) -> dict[str, Any]:
    return {"iteration": iteration, "stage": stage, "metric": f"performance/{name}", "value": float(value),
            "stderr": None, "n": None}
