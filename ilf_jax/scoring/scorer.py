"""What a scorer is: gives every candidate refinement of a document a number, of which the highest is picked."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.config import Config
from ilf_jax.evaluation.statistics import Metric
from ilf_jax.inference.model_pool import Roles
from ilf_jax.records import Example, Scored
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class RefinedDocument:
    """A document with its draft, the feedback on it, and the C candidate refinements."""

    example: Example
    draft: str
    feedback: str
    candidates: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one document's C candidates.

    Attributes:
        of_candidates: C numbers; higher is better.
        of_prompts: C lists of P numbers, for an ensemble of P prompts; otherwise empty.
        work: tokens and FLOPs that they took.
        stderrs: C standard errors, where scores were estimated from drawn answers; otherwise empty.
    """

    of_candidates: np.ndarray
    of_prompts: list[list[float]] = dataclasses.field(default_factory=list)
    work: performance.Work = performance.Work()
    stderrs: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ScorerContext:
    """What a scorer is made from.

    Attributes:
        roles: loads models, for scorers that are one.
        documents: all that will be scored.
    """

    config: Config
    task: Task
    roles: Roles
    iteration: int
    documents: tuple[RefinedDocument, ...]


class Scorer(abc.ABC):
    """Scores candidates. Made once per iteration."""

    def __init__(self, context: ScorerContext) -> None:
        self.context = context

    @abc.abstractmethod
    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Sets the device to work on these documents and returns."""

    def metrics(self, scored: Mapping[str, Scored]) -> list[Metric]:
        """Numbers of its own about the finished stage, e.g. the agreement with another layout."""
        del scored
        return []
