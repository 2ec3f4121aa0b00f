"""What a stage is given, how it resumes, and how it works through documents shard by shard.

One rule of resume for every stage: a stage whose manifest says complete is left alone; a baseline's stage that depends
on nothing the baseline overrides reads the records that are there already; a stage that has begun resumes after its
last shard; everything else runs.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ilf_jax import registry
from ilf_jax.config import OVERRIDDEN_BY_BASELINES, Config, needed_stages
from ilf_jax.config_sections import TRAINING_STAGES
from ilf_jax.evaluation import statistics
from ilf_jax.evaluation.statistics import Metric
from ilf_jax.inference.model_pool import Roles
from ilf_jax.models import padding
from ilf_jax.records import Example, Feedback, Record, Scored
from ilf_jax.runtime import distributed, performance, preemption, progress, storage
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.runtime.workdir import Workdir
from ilf_jax.tasks.task import Task

R = TypeVar("R", bound=Record)


class SharedStages:
    """Which folder holds a stage's records, by a hash of the settings that they depend on; one for a whole run.

    The run and its baselines execute one after another, so whoever comes first computes what the others read.
    """

    def __init__(self) -> None:
        self._folders: dict[str, StageFolder] = {}

    def first(self, settings: Mapping[str, Any], own: StageFolder) -> StageFolder:
        """The folder of whoever asked first with these settings: `own` if nobody has."""
        return self._folders.setdefault(_key(settings), own)

    def find(self, settings: Mapping[str, Any]) -> StageFolder | None:
        """The folder of whoever asked first with these settings; None if nobody has."""
        return self._folders.get(_key(settings))


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


@dataclasses.dataclass(frozen=True)
class StageContext:
    """One iteration: its documents and everything that its stages need.

    Attributes:
        examples: the documents to learn from.
        held_out: the documents to evaluate on.
        roles: which model plays policy, refiner, judge, ... in this iteration; loads them when asked.
        shared: stages that the run and its baselines share.
        profiled_steps: training steps to record a profile of.
        leaked: how many of the held-out documents are in the training data, too.
    """

    config: Config
    workdir: Workdir
    task: Task
    iteration: int
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    roles: Roles
    shared: SharedStages = dataclasses.field(default_factory=SharedStages)
    profiled_steps: int = 0
    leaked: int = 0

    def folder(self, stage: str) -> StageFolder:
        """Folder of a stage of this iteration."""
        return self.workdir.stage(self.iteration, stage)

    def with_feedback(self, feedback: "Records[Feedback]") -> "StageContext":
        """The iteration without the documents on which there is no feedback: people may skip some."""
        if feedback.folder is None:
            return self
        given = feedback.by_id()
        return dataclasses.replace(self, examples=tuple(e for e in self.examples if e.id in given))

    def measure(self, texts: Mapping[str, str], examples: Sequence[Example] | None = None) -> list[Metric]:
        """The task's own numbers about one text per example, averaged.

        Args:
            texts: by example id.
            examples: what to measure on; by default this iteration's documents.
        """
        values: dict[str, list[float]] = {}
        shares = {metric.name for metric in self.task.metrics if metric.share}
        for example in self.examples if examples is None else examples:
            for name, value in self.task.measure(example, texts[example.id]).items():
                values.setdefault(name, []).append(value)
        return [(statistics.proportion if name in shares and {*of_name} <= {0, 1} else statistics.mean)(name, of_name)
                for name, of_name in values.items()]


@dataclasses.dataclass(frozen=True)
class Records(Generic[R]):
    """What a complete stage wrote, read from its shards when asked for.

    Attributes:
        folder: None where this configuration does not need the stage.
    """

    cls: type[R]
    folder: StageFolder | None

    def by_id(self) -> dict[str, R]:
        """The records by example id; empty where the stage was not needed. Raises InputError if a shard is missing."""
        return {} if self.folder is None else self.folder.read(self.cls)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a stage's body hands to `run_stage`, for the manifest.

    Attributes:
        shards, count: shards written, and records in them.
        metrics: what the stage measured.
        work: tokens and FLOPs of what this process computed.
        facts: anything else that the manifest keeps.
    """

    shards: int
    count: int
    metrics: Sequence[Metric] = ()
    work: performance.Work = performance.Work()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def run_stage(context: StageContext, name: str, cls: type[R], body: Callable[[StageFolder], Outcome]) -> Records[R]:
    """Runs a stage by the rule of resume (see the module's docstring), and returns what it wrote.

    Args:
        cls: the stage's record type.
        body: does the work of a stage that is not complete: writes the missing shards into the folder it is given.
    """
    if name in TRAINING_STAGES and name not in needed_stages(context.config):
        return Records(cls, None)
    folder = context.folder(name)
    source = context.shared.first(_depends_on(context, name), folder)
    if folder.complete:
        folder.verify()
        return Records(cls, folder)
    if source.path != folder.path:
        folder.link(source)
    else:
        meter = performance.Meter()
        folder.begin()
        finish(context, folder, meter, body(folder))
    context.workdir.write_metrics()
    return Records(cls, folder)


def written_with(context: StageContext, name: str, cls: type[R]) -> Records[R] | None:
    """What the run or a baseline wrote in a stage with the context's settings; None where none has."""
    folder = context.shared.find(_depends_on(context, name))
    return Records(cls, folder) if folder is not None and folder.complete else None


def same_records(one: StageContext, other: StageContext, name: str) -> bool:
    """Whether a stage writes the same under both configurations."""
    return _depends_on(one, name) == _depends_on(other, name)


def finish(context: StageContext, folder: StageFolder, meter: performance.Meter, outcome: Outcome,
           cost: Mapping[str, float] | None = None) -> None:
    """Writes the manifest of a complete stage: what every stage ends with.

    Args:
        meter: started when the stage began.
        cost: what `meter` measured, where it was read earlier.
    """
    lines = [metric_line(context.iteration, folder.path.name, metric) for metric in outcome.metrics]
    folder.finish(shards=outcome.shards, count=outcome.count, metrics=lines, **outcome.facts,
                  cost=meter.cost(outcome.work, context.config.precision) if cost is None else cost)


def metric_line(iteration: int, stage: str, metric: Metric) -> dict[str, Any]:
    """A line of metrics.jsonl. What is not defined is null: a standard error of n = 1, a correlation of constants."""
    value, stderr = (None if x is None or not math.isfinite(x) else float(x) for x in (metric.value, metric.stderr))
    bounds = {} if metric.low is None else {"low": metric.low, "high": metric.high}
    return {"iteration": iteration, "stage": stage, "metric": metric.name, "value": value, "stderr": stderr,
            "n": metric.n, **bounds}


def _depends_on(context: StageContext, stage: str) -> dict[str, Any]:
    """The settings that a stage's records depend on, of those that a baseline may override.

    Once the policy has been trained, whatever it writes depends on all of them.
    """
    config, trained = context.config, context.iteration > (0 if stage in ("evaluate", "best_of_n") else 1)
    sections = {name: dataclasses.asdict(getattr(config, name)) for name in OVERRIDDEN_BY_BASELINES}
    everything = {"stage": stage, "iteration": context.iteration, **sections}
    if stage in ("evaluate", "best_of_n"):
        return everything if trained else {"stage": stage, "iteration": 0}
    order = TRAINING_STAGES
    if stage not in order:
        return {**everything, "workdir": str(context.workdir.path)}  # never shared
    recorded = uses_recorded_drafts(config)
    fresh = config.refine.source == "policy"
    models = {"draft": [] if recorded else ["policy"], "feedback": ["critic"],
              "refine": ["policy" if fresh else "refiner"],
              "score": ["judge", "embedder", "reward_model"]}
    upstream = order[: order.index(stage) + 1]
    if fresh and stage in ("refine", "score") and "draft" not in needed_stages(config):
        upstream = tuple(name for name in upstream if name not in ("draft", "feedback"))
    by_policy = any(name == "policy" or getattr(config, name).checkpoint == "policy"
                    for upper in upstream for name in models[upper])
    own_code = ({"feedback"} & set(upstream) and config.feedback.source not in registry.FEEDBACK.builtins) or (
        {"score"} & set(upstream) and config.score.method not in registry.SCORERS.builtins)
    if trained and (by_policy or own_code):  # a user's class may ask for the policy, too
        return everything
    relevant = {name: sections[name] for name in upstream if name in sections}
    return {"stage": stage, "iteration": context.iteration, "recorded": recorded, **relevant}


def uses_recorded_drafts(config: Config) -> bool:
    """Whether drafts come from the data: with 'auto', where the feedback on them does."""
    if config.draft.source == "auto":
        return config.feedback.source == "recorded"
    return config.draft.source == "recorded"


def judged(config: Config, scored: Scored) -> bool:
    """Whether a document was judged: its texts may be too long, see config.data.too_long."""
    return config.score.method != "instruct_rm" or bool(scored.prompt_scores)


@dataclasses.dataclass(frozen=True)
class Processed(Generic[R]):
    """What `process_shards` leaves: records by example id, the number of shards, and the work done by this process."""

    records: dict[str, R]
    shards: int
    work: performance.Work


def process_shards(
    context: StageContext, folder: StageFolder, examples: Sequence[Example], lengths: Sequence[int], *,
    shard_size: int, cls: type[R], start: Callable[[list[Example]], Pending[list[R]]],
    work: Callable[[R], performance.Work], before_writing: Pending[None] | None = None,
) -> Processed[R]:
    """Works on documents of similar length together, a shard at a time; shards that exist are left alone.

    Which documents share a shard follows from their lengths alone, so a resumed run computes exactly what the first one
    would have.

    Args:
        folder: of the stage.
        lengths: of each example, in any unit; documents of similar length make a shard.
        shard_size: documents in a shard.
        cls: the record type.
        start: sets the device to work on a shard's documents and returns at once; while the records of one shard are
            made and written, the device works on the next.
        work: what making a record took.
        before_writing: must be complete before the first record is written: the checkpoint of the stage before.
    """
    stage, meter = folder.path.name, performance.Meter()
    shards = padding.batches_by_length(lengths, shard_size)
    folder.verify_written(len(shards))
    missing = folder.missing_shards(len(shards))
    done = len(examples) - sum(len(shards[i]) for i in missing)
    total = performance.Work()
    with progress.Progress(f"{stage} {context.iteration}", len(examples), "documents", done=done) as bar:

        def write(i: int, pending: Pending[list[R]]) -> None:
            nonlocal total
            rows = pending.result()
            if before_writing is not None:
                before_writing.result()
            folder.write_shard(i, len(shards), rows)
            total = functools.reduce(performance.Work.plus, map(work, rows), total)
            bar.advance(len(shards[i]))
            preemption.safe_point()

        previous: tuple[int, Pending[list[R]]] | None = None
        for i in missing:
            started = i, start([examples[j] for j in shards[i]])
            performance.batch_begins()
            if previous is not None:
                write(*previous)
            previous = started
        if previous is not None:
            write(*previous)
    if distributed.count() > 1:  # each has written its own shards
        storage.flush(folder.path)
        distributed.barrier()
    records = {row.id: row for i in range(len(shards)) for row in folder.read_shard(cls, i, len(shards))}
    cost = meter.cost()
    if cost["compilations"]:
        progress.log(f"{stage} {context.iteration}: {cost['compilations']} programs compiled in "
                     f"{progress.duration(cost['compile_seconds'])}")
    return Processed(records, len(shards), total)
