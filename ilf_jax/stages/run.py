"""What every stage of an iteration is given, and how a stage works through documents shard by shard."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ilf_jax import progress
from ilf_jax.config import Config
from ilf_jax.evaluation import statistics
from ilf_jax.evaluation.statistics import Metric
from ilf_jax.records import Example
from ilf_jax.stages import batching
from ilf_jax.stages.role import Role
from ilf_jax.tasks.base import Task
from ilf_jax.workdir import StageFolder, Workdir

R = TypeVar("R")


class Roles(Protocol):
    """Loads the models that play a part."""

    def get(self, name: str) -> Role:
        """The model that plays `name` ("policy", "refiner", "judge", "critic", "embedder") now."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One iteration: its number, its documents, and all that the stages need. `roles` loads models when asked."""

    config: Config
    workdir: Workdir
    task: Task
    iteration: int
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    roles: Roles

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
    """What `process_shards` leaves: the records by example id, how many shards they fill, seconds spent now."""

    records: dict[str, R]
    shards: int
    seconds: float


def process_shards(
    run: Run, stage: str, examples: Sequence[Example], lengths: Sequence[int], batch_size: int, cls: type[R],
    work: Callable[[list[Example]], list[R]],
) -> Done[R]:
    """Does `work` on documents of like length together, a batch a shard; shards that are there are left alone.

    Which documents share a batch follows from their lengths alone, so a resumed run computes just what the first one
    would have.
    """
    folder, start = run.folder(stage), time.monotonic()
    batches = batching.batches_by_length(lengths, batch_size)
    todo = [i for i in range(len(batches)) if not folder.has_shard(i, len(batches))]
    done = len(examples) - sum(len(batches[i]) for i in todo)
    with progress.Progress(f"{stage} {run.iteration}", len(examples), "documents", done=done) as bar:
        for i in todo:
            folder.write_shard(i, len(batches), work([examples[j] for j in batches[i]]))
            bar.advance(len(batches[i]))
    records = {row.id: row for i in range(len(batches)) for row in folder.read_shard(cls, i, len(batches))}
    return Done(records, len(batches), time.monotonic() - start)
