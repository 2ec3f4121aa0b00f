"""What a feedback source is: says in plain language what is wrong with a draft, or how to improve it."""

import abc
import dataclasses
from collections.abc import Sequence

from ilf_jax.config import Config
from ilf_jax.evaluation.statistics import Metric
from ilf_jax.inference.model_pool import Roles
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime import performance, storage
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class DraftedDocument:
    """A document and the draft that feedback is wanted on."""

    example: Example
    draft: str


@dataclasses.dataclass(frozen=True)
class SourceContext:
    """What a source is made from.

    Attributes:
        roles: loads models, for sources that are one.
        folder: of the feedback stage; a source may keep files of its own there.
        documents: all that feedback will be asked for.
    """

    config: Config
    task: Task
    roles: Roles
    iteration: int
    folder: storage.Path
    documents: tuple[DraftedDocument, ...]


class FeedbackSource(abc.ABC):
    """Gives feedback on drafts. Made once per iteration.

    Attributes:
        sharded: feedback is asked for and written a shard at a time, so that a stopped run does not ask twice: for
            sources that are slow or cost money.
        complete: every document gets feedback; those without are left out of the iteration.
    """

    sharded: bool = False
    complete: bool = True

    def __init__(self, context: SourceContext) -> None:
        self.context = context

    @classmethod
    def check(cls, config: Config, task: Task, examples: Sequence[Example] | None) -> None:
        """Raises InputError if this source cannot serve the run; called before any work.

        Args:
            examples: the documents to learn from; None while only the configuration is known.
        """
        del config, task, examples

    @abc.abstractmethod
    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Begins to give feedback on these drafts, in their order."""

    def length(self, document: DraftedDocument) -> int:
        """What documents are sorted by before they are dealt out to shards, in any unit."""
        return len(document.example.document)

    def metrics(self) -> list[Metric]:
        """Numbers of its own about the finished stage, of a sharded source."""
        return []

    def work(self, feedback: Feedback) -> performance.Work:
        """Tokens and FLOPs that one piece of feedback took."""
        del feedback
        return performance.Work()
