"""The typed records that pass between stages. Each is one line of JSON in a stage's shards.

Example -> (draft) Draft -> (feedback) Feedback -> (refine) Candidates -> (score) Scored -> (finetune) Target
-> (evaluate) Output. Every record carries the `id` of its Example; stages join on it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Example:
    """A document and whatever was recorded about it. Absent fields are empty strings.

    Attributes:
        id: unique in its dataset; random keys, order and joins go by it.
        document: the text that the policy works on.
        title: heading of the document.
        draft: an output recorded earlier, to be refined instead of a fresh one.
        feedback: feedback recorded for `draft`.
        reference: a reference output, independent of the draft (a human summary).
        human_refinement: a person's refinement of `draft`.
    """

    id: str
    document: str
    title: str = ""
    draft: str = ""
    feedback: str = ""
    reference: str = ""
    human_refinement: str = ""


@dataclasses.dataclass(frozen=True)
class Draft:
    """x0 ~ pi_theta(. | c). `logprob` is the sum over sampled tokens, in nats; None where the draft was recorded."""

    id: str
    text: str
    source: str  # "policy" or "recorded"
    num_tokens: int = 0
    logprob: float | None = None
    stopped: bool = True  # ended by itself, rather than cut at the token limit


@dataclasses.dataclass(frozen=True)
class Feedback:
    """f: what is said, in plain language, of the draft."""

    id: str
    text: str
    source: str  # "recorded", "oracle", "critic", "human"


@dataclasses.dataclass(frozen=True)
class Candidates:
    """x1^1..x1^N ~ pi_psi(. | c, x0, f), post-processed. Lists run over the N candidates.

    Attributes:
        texts: the candidates.
        logprobs: sum of the sampled tokens' log-probabilities under the refiner, in nats.
        num_tokens: tokens sampled, the end token included.
        stopped: ended by itself, rather than cut at the token limit.
        redrawn: whether the document was drawn a second time (equal or unusable candidates).
    """

    id: str
    texts: list[str]
    logprobs: list[float]
    num_tokens: list[int]
    stopped: list[bool]
    redrawn: bool = False


@dataclasses.dataclass(frozen=True)
class Scored:
    """R(x1^i | x0, f, c) and what was picked.

    Attributes:
        scores: one score a candidate, from the configured method.
        chosen: index of the picked candidate.
        picks: index that each baseline scorer (random, longest, first) picks.
        prompt_scores: per candidate the score of each prompt of an ensemble; empty for other methods.
    """

    id: str
    scores: list[float]
    chosen: int
    picks: dict[str, int]
    prompt_scores: list[list[float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Target:
    """One training pair: the policy's prompt for the example, and the text to imitate."""

    id: str
    prompt: str
    completion: str
    source: str  # which finetune.target it came from
    weight: float = 1.0  # of its loss


@dataclasses.dataclass(frozen=True)
class Output:
    """What a policy writes for a held-out example."""

    id: str
    text: str
    num_tokens: int
    stopped: bool
    logprob: float


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON-ready dict."""
    return dataclasses.asdict(record)


def from_json(cls: type[R], row: Mapping[str, Any]) -> R:
    """The record that `to_json` wrote. Raises TypeError on unknown or missing fields."""
    return cls(**row)
