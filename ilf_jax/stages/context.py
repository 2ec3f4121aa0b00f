"""What every stage of an iteration is given, and how a stage works through documents shard by shard."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ilf_jax.config import Config
from ilf_jax.evaluation import statistics
from ilf_jax.evaluation.statistics import Metric
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.transformer import Params
from ilf_jax.records import Example
from ilf_jax.runtime import distributed, performance, preemption, progress, storage
from ilf_jax.runtime.workdir import StageFolder, Workdir
from ilf_jax.tasks.task import Task

R = TypeVar("R")


class Roles(Protocol):
    """Loads the models that play a part."""

    def get(self, name: str) -> LanguageModel:
        """The model that plays `name` ("policy", "refiner", "judge", "critic", "embedder") now."""

    def without_params(self, name: str) -> LanguageModel:
        """As `get`, but nothing is loaded."""

    def take(self, name: str) -> Params:
        """Its params to train, float32, in the training layout; they are the caller's."""

    def forget(self, name: str) -> None:
        """Lets go of its params."""

    def keep(self, checkpoint: storage.Path, params: Params, model: ModelConfig) -> None:
        """Holds params that were trained and are being saved, so that they are not read again."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One iteration: its number, its documents, and all that the stages need. `roles` loads models when asked.

    Attributes:
        before_writing: called before the first records of a stage are written, once they are made; completes the
            stage before it, if that is still writing.
    """

    config: Config
    workdir: Workdir
    task: Task
    iteration: int
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    roles: Roles
    profiled_steps: int = 0
    before_writing: Callable[[], None] = lambda: None

    def folder(self, stage: str, iteration: int | None = None) -> StageFolder:
        """Folder of a stage, of this iteration unless another is given."""
        return self.workdir.stage(self.iteration if iteration is None else iteration, stage)

    def summarise(self, stage: str, metrics: Iterable[Metric]) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl for means with standard errors."""
        return [self.metric(stage, m.name, m.value, m.stderr, m.n) for m in metrics]

    def measure(self, texts: Mapping[str, str], examples: Sequence[Example] | None = None) -> list[Metric]:
        """The task's own numbers about one text an example, averaged."""
        found: dict[str, list[float]] = {}
        for example in self.examples if examples is None else examples:
            for name, value in self.task.measure(example, texts[example.id]).items():
                found.setdefault(name, []).append(value)
        return [statistics.mean(name, values) for name, values in found.items()]

    def metric(self, stage: str, name: str, value: float, stderr: float | None = None,
               n: int | None = None) -> dict[str, Any]:
        """A line of metrics.jsonl. A standard error that is not defined (n = 1) is null."""
        finite = stderr is not None and stderr == stderr
        return {"iteration": self.iteration, "stage": stage, "metric": name, "value": float(value),
                "stderr": float(stderr) if finite else None, "n": n}


@dataclasses.dataclass(frozen=True)
class Done(Generic[R]):
    """What `process_shards` leaves: records by example id, how many shards they fill, what was done for them now."""

    records: dict[str, R]
    shards: int
    work: performance.Work


def process_shards(
    run: Run, stage: str, examples: Sequence[Example], lengths: Sequence[int], shard_size: int, cls: type[R],
    start: Callable[[list[Example]], Callable[[], list[R]]], work: Callable[[R], performance.Work],
) -> Done[R]:
    """Works on documents of like length together, a shard at a time; shards that are there are left alone.

    Which documents share a shard follows from their lengths alone, so a resumed run computes just what the first one
    would have.

    Args:
        start: sets the device to work on a shard's documents and returns at once; what it returns waits for the result
            and makes the records. The device has the next shard at hand while those of one are made and written.
        work: what making a record took.
    """
    folder, meter = run.folder(stage), performance.Meter()
    shards = padding.batches_by_length(lengths, shard_size)
    todo = folder.missing_shards(len(shards))
    done = len(examples) - sum(len(shards[i]) for i in todo)
    works: list[performance.Work] = []
    with progress.Progress(f"{stage} {run.iteration}", len(examples), "documents", done=done) as bar:

        def write(i: int, finish: Callable[[], list[R]]) -> None:
            made = finish()
            run.before_writing()
            folder.write_shard(i, len(shards), made)
            works.extend(map(work, made))
            bar.advance(len(shards[i]))
            preemption.safe_point()

        under_way: tuple[int, Callable[[], list[R]]] | None = None
        for i in todo:
            started = i, start([examples[j] for j in shards[i]])
            if under_way is not None:
                write(*under_way)
            under_way = started
        if under_way is not None:
            write(*under_way)
    distributed.barrier()  # each process has written its own
    records = {row.id: row for i in range(len(shards)) for row in folder.read_shard(cls, i, len(shards))}
    cost = meter.cost()
    if cost["compilations"]:
        progress.log(f"{stage} {run.iteration}: {cost['compilations']} programs compiled in "
                     f"{progress.duration(cost['compile_seconds'])}")
    return Done(records, len(shards), total(works))


def total(works: Iterable[performance.Work]) -> performance.Work:
    """All of them together."""
    tokens, flops = 0, 0.0
    for work in works:
        tokens, flops = tokens + work.tokens, flops + work.flops
    return performance.Work(tokens, flops)
