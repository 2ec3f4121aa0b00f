"""Reads a run's work folder for the report, finished or not, and lists what is missing."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from ilf_jax import records
from ilf_jax.config_sections import stages_before_finetuning
from ilf_jax.errors import InputError, near_path
from ilf_jax.runtime import config_changes, files, manifests, storage
from ilf_jax.runtime.stage_folder import RECORDS_IN
from ilf_jax.runtime.workdir import NOT_REPORTED

R = TypeVar("R", bound=records.Record)

STAGES = tuple(records.OF_STAGES)
_SHARD = re.compile(r"\d{5}-of-\d{5}\.jsonl")
_ITERATION = re.compile(r"iteration_(\d+)")


@dataclasses.dataclass(frozen=True)
class Metric:
    """One line of metrics.jsonl."""

    iteration: int
    stage: str
    metric: str
    value: float
    stderr: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage's records by example id, and its manifest ({} where none was written)."""

    records: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def complete(self) -> bool:
        return bool(self.manifest.get("complete"))

    @property
    def seconds(self) -> float | None:
        return self.manifest.get("cost", {}).get("seconds")


@dataclasses.dataclass(frozen=True)
class Iteration:
    """One iteration's folder. `examples` are its training examples, `heldout` those that evaluate works on."""

    number: int
    stages: dict[str, Stage]
    examples: dict[str, records.Example]
    heldout: dict[str, records.Example]
    steps: list[dict[str, Any]]

    def rows(self, stage: str) -> dict[str, Any]:
        """A stage's records by id; empty where the stage has not run."""
        return self.stages[stage].records if stage in self.stages else {}


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """A run as read from its files.

    Attributes:
        path: the folder.
        config: config.json.
        metrics: each (iteration, stage, metric) once, the line written last.
        iterations: in order; 0 is the evaluation before training.
        baselines: the runs under baselines/, by name.
        missing: what is not there or not readable, a phrase each; empty for a finished run.
        metric_directions: "lower" or "higher", whichever is better, by name of the task's metrics, the leading one
            first; empty where the folder has no run.json.
        changes: what --allow_change has let into config.json since the run began, see `runtime.config_changes`.
        starts: how it was started, each time; see `runtime.provenance`. Empty in folders of older versions.
    """

    path: Path
    config: dict[str, Any]
    metrics: list[Metric]
    iterations: list[Iteration]
    baselines: dict[str, "WorkFolder"]
    missing: list[str]
    metric_directions: dict[str, str] = dataclasses.field(default_factory=dict)
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def value(self, iteration: int, stage: str, metric: str) -> Metric | None:
        """The metric, or None where it was not measured."""
        wanted = (iteration, stage, metric)
        return next((m for m in self.metrics if (m.iteration, m.stage, m.metric) == wanted), None)

    def names(self, stage: str) -> list[str]:
        """The metrics of a stage, in the order in which they first appear."""
        return list(dict.fromkeys(m.metric for m in self.metrics if m.stage == stage))


def _read_lines(path: Path, missing: list[str], digest: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of each line that is a JSON object; others go to `missing`: a killed run may cut its last line.

    Raises InputError if the file has another digest than was noted.
    """

    def damaged(number: int) -> None:
        missing.append(f"{path.parent.name}/{path.name} line {number} (cut off or damaged)")

    if path.exists():
        for number, row in files.read_json_lines(path, damaged=damaged, digest=digest):
            yield f"{path.parent.name}/{path.name} line {number}", row


def _read_records(cls: type[R], path: Path, missing: list[str], digest: str | None = None) -> dict[str, R]:
    by_id: dict[str, R] = {}
    for where, row in _read_lines(path, missing, digest):
        try:
            record = records.from_json(cls, row)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path.parent}/{path.name}: {where} is no {cls.__name__}: {error}") from error
        by_id[record.id] = record
    return by_id


def _read_stage(folder: Path, cls: type, missing: list[str]) -> Stage:
    manifest = manifests.read(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    digests = dict(enumerate(manifest.get(manifests.DIGESTS, ())))
    rows: dict[str, Any] = {}
    place = folder / manifest.get(RECORDS_IN, ".")  # a baseline shares the run's records where its settings are equal
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        if _SHARD.fullmatch(path.name):
            rows.update(_read_records(cls, path, missing, digests.get(int(path.name[:5]))))
    if cls is records.Output:  # folders of older versions have no such file
        for i, more in _read_records(records.MoreValues, place / manifests.MORE_VALUES, missing).items():
            if i in rows:
                rows[i] = dataclasses.replace(rows[i], values={**rows[i].values, **more.values})
    return Stage(rows, manifest)


def _read_iteration(folder: Path, number: int, missing: list[str]) -> Iteration:
    stages = {
        name: _read_stage(folder / name, cls, missing) for name, cls in records.OF_STAGES.items()
        if (folder / name).is_dir()
    }
    digest_of_steps = stages["finetune"].manifest.get(manifests.STEPS_DIGEST) if "finetune" in stages else None
    return Iteration(
        number,
        stages,
        _read_records(records.Example, folder / "examples.jsonl", missing),
        _read_records(records.Example, folder / "evaluate" / "examples.jsonl", missing),
        [row for _, row in _read_lines(folder / "finetune" / "steps.jsonl", missing, digest_of_steps)],
    )


def _read_metrics(path: Path, missing: list[str]) -> list[Metric]:
    latest: dict[tuple[int, str, str], Metric] = {}
    for where, row in _read_lines(path, missing):
        try:
            values: dict[str, Any] = {field.name: row.get(field.name) for field in dataclasses.fields(Metric)}
            metric = Metric(**values)
            usable = isinstance(metric.iteration, int) and math.isfinite(metric.value)
        except TypeError:
            usable = False
        if usable:
            latest[metric.iteration, metric.stage, metric.metric] = metric
        else:
            missing.append(f"{where} (no finite value)")
    return sorted(latest.values(), key=lambda metric: metric.iteration)


def _read_facts(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Directions of metrics, and starts, as far as run.json has them."""
    facts = files.read_sealed(path) if path.exists() else {}
    directions, starts = facts.get("metric_directions"), facts.get("starts")
    return (directions if isinstance(directions, dict) else {},
            [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else [])


def _absent(config: dict[str, Any], iterations: list[Iteration], is_baseline: bool) -> list[str]:
    """Stages that a finished run of this config has and this one has not."""
    by_number = {iteration.number: iteration for iteration in iterations}
    finetune = config.get("finetune", {})
    before_target = stages_before_finetuning(
        finetune.get("target", ""), finetune.get("objective", ""), finetune.get("feedback_weight", 0.0),
        config.get("refine", {}).get("source", ""))
    evaluates = config.get("data", {}).get("eval_size") != 0
    settings = config.get("evaluate", {})
    held_out = ("evaluate", *(("best_of_n",) if settings.get("best_of_n", 1) > 1 else ())) if evaluates else ()
    last = config.get("iterations")
    numbers = range(1, last + 1) if isinstance(last, int) else sorted(set(by_number) - {0})
    gone = []
    for number in sorted({*numbers, *by_number}):
        if number not in by_number:
            gone.append(f"iteration {number}")
            continue
        wanted = () if number == 0 else (*before_target, "finetune")
        wanted += held_out
        if not is_baseline:  # baselines use the run's reward model, and are ranked with the run
            wanted += ("reward",) if number == 0 and config.get("reward", {}).get("source") else ()
            wanted += ("rank",) if number == last and settings.get("rank") else ()
        for name in STAGES:
            stage = by_number[number].stages.get(name)
            if stage is None and name in wanted:
                gone.append(f"iteration {number}: {name}")
            elif stage is not None and not stage.complete:
                gone.append(f"iteration {number}: {name} is not finished ({len(stage.records)} records so far)")
    if 0 not in by_number and evaluates:
        gone.insert(0, "iteration 0: evaluate (before training)")
    return gone


def check(path: str | os.PathLike[str]) -> None:
    """Raises InputError if `path` is on this machine and is no work folder; of one in a bucket nothing is asked."""
    folder = storage.path(path)
    if not storage.is_local(folder) or (folder / "config.json").exists():
        return
    folder = storage.local(path)
    if folder.is_dir():
        near = next((inside for inside in sorted(folder.iterdir()) if (inside / "config.json").exists()), None)
        wrong = "not a work folder, it has no config.json"
    else:
        near, wrong = near_path(folder), "no such folder"
    remedy = "give the --workdir of a run" if near is None else f"did you mean {near}?"
    raise InputError(f"{folder}: {wrong}; {remedy}")


@contextlib.contextmanager
def on_disk(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A work folder, or a copy of what reports read of one in a bucket.

    Raises:
        InputError: there is no work folder in the bucket.
    """
    folder = storage.path(path)
    with storage.read_locally(folder, leave_out=NOT_REPORTED) as place:
        if not storage.is_local(folder) and not (place / "config.json").exists():
            raise InputError(f"{folder}: not a work folder, it has no config.json; give the --workdir of a run")
        yield place


def read(path: str | os.PathLike[str], *, is_baseline: bool = False) -> WorkFolder:
    """Reads a work folder and, unless it is a baseline's, the baselines under its baselines/.

    Raises:
        InputError: the folder is not a work folder, or a file in it holds something else than it should.
    """
    if not storage.is_local(storage.path(path)):
        with on_disk(path) as place:
            return read(place)
    check(path)
    path = storage.local(path)
    config = files.read_sealed(path / "config.json")
    missing: list[str] = []
    iterations = []
    for folder in path.iterdir():
        match = _ITERATION.fullmatch(folder.name)
        if match and folder.is_dir():
            iterations.append(_read_iteration(folder, int(match[1]), missing))
    iterations.sort(key=lambda iteration: iteration.number)
    metrics = _read_metrics(path / "metrics.jsonl", missing)
    changes = [row for _, row in _read_lines(path / config_changes.CHANGES, missing)]
    missing = _absent(config, iterations, is_baseline) + missing
    baselines: dict[str, WorkFolder] = {}
    parent = path / "baselines"
    present = {p.name for p in parent.iterdir()} if not is_baseline and parent.is_dir() else set()
    # In the order of the configuration, which is the order in which they run.
    for name in [*(n for n in config.get("baselines") or {} if n in present),
                 *sorted(present - set(config.get("baselines") or {}))]:
        if (parent / name / "config.json").exists():
            baselines[name] = read(parent / name, is_baseline=True)
            missing += [f"baseline {name}, {what}" for what in baselines[name].missing]
        elif (parent / name).is_dir():
            missing.append(f"baseline {name} (no config.json)")
    directions, starts = _read_facts(path / "run.json")
    return WorkFolder(path, config, metrics, iterations, baselines, missing, directions, changes, starts)
