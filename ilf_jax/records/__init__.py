"""The typed records that pass between stages. Each is one line of JSON in a stage's shards.

Example -> (draft) Draft -> (feedback) Feedback -> (refine) Candidates -> (score) Scored -> (finetune) Target
-> (evaluate) Output. Every record carries the `id` of its Example; stages join on it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from ilf_jax.records import field_types


class Record(Protocol):
    """What all records have in common."""

    @property
    def id(self) -> str:
        """Of the example, or of the pair, that the record is about."""


R = TypeVar("R", bound=Record)


@dataclasses.dataclass(frozen=True)
class Example:
    """A document and whatever was recorded about it. Absent fields are empty strings.

    Draft, feedback, reference and human_refinement have no blanks around them, as generated texts have none.

    Attributes:
        id: unique in its dataset; random keys, order and joins go by it.
        document: the text that the policy works on.
        title: heading of the document.
        draft: an output recorded earlier, to be refined instead of a fresh one.
        feedback: feedback recorded for `draft`.
        reference: a reference output, independent of the draft (a human summary).
        human_refinement: a person's refinement of `draft`.
        group: a kind of document of which the evaluation gives numbers of its own.
    """

    id: str
    document: str
    title: str = ""
    draft: str = ""
    feedback: str = ""
    reference: str = ""
    human_refinement: str = ""
    group: str = ""


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
    """f: what is said, in plain language, of the draft.

    Attributes:
        source: "recorded", "oracle", "critic", "human" or "none".
        redrawn: the critic first repeated its prompt.
        refinement: the x1 that the reviewer gave beside it, if any. It is picked before any candidate.
        refinement_by: who wrote that text, one of `REFINEMENT_BY`; "" where there is none.
    """

    id: str
    text: str
    source: str
    redrawn: bool = False
    refinement: str = ""
    refinement_by: str = ""


REFINEMENT_BY = ("reviewer", "refiner", "refiner, edited")
"""Who wrote the refinement that a reviewer gave: the reviewer, the refiner on the reviewing page, or both."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """x1^1..x1^N ~ pi_psi(. | c, x0, f), post-processed. Lists run over the N candidates.

    Attributes:
        texts: the candidates.
        logprobs: sum of the sampled tokens' log-probabilities under the refiner, in nats; empty where that is an
            endpoint.
        num_tokens: tokens sampled, the end token included.
        stopped: ended by itself, rather than cut at the token limit.
        redrawn: whether the document was drawn a second time (equal or unusable candidates).
        preambles: how many of all that was drawn began with a clause that announces the answer, which was cut off.
        echoes: how many repeated the prompt; they count as empty.
    """

    id: str
    texts: list[str]
    logprobs: list[float]
    num_tokens: list[int]
    stopped: list[bool]
    redrawn: bool = False
    preambles: int = 0
    echoes: int = 0


@dataclasses.dataclass(frozen=True)
class Scored:
    """R(x1^i | x0, f, c) and what was picked.

    Attributes:
        scores: one score a candidate, from the configured method.
        chosen: index of the candidate that the scorer picks.
        picks: index that each baseline scorer (random, longest, first) picks.
        prompt_scores: per candidate the score of each prompt of an ensemble; empty for other methods.
        draft_score: of the draft, by the same method; None where config.score.draft does not ask for it.
        overruled_by: who wrote the refinement that a reviewer gave, which is then picked instead of `chosen`; see
            `Feedback.refinement_by`. "" where the scorer's pick stands.
        stderrs: standard error of each score, where a judge's answers were drawn; empty where it is exact.
    """

    id: str
    scores: list[float]
    chosen: int
    picks: dict[str, int]
    prompt_scores: list[list[float]] = dataclasses.field(default_factory=list)
    draft_score: float | None = None
    overruled_by: str = ""
    stderrs: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Target:
    """One training pair: the policy's prompt for the example, and the text to imitate.

    Attributes:
        source: which finetune.target it came from; after a colon who wrote it, where a reviewer overruled the scorer.
        weight: of its loss.
        rejected: the text that `completion` is preferred to.
        context: which prompt the text stands behind, or its teacher reads: see `training.objectives.CONTEXTS`.
        draft, feedback, refinement: what such prompts hold, and what is learned beside the text.
        advantage: how much better than expected the text was, by its reward.
        ended: whether its end is learned, too; not of a draft that was cut at the limit, whose end was never drawn.
    """

    id: str
    prompt: str
    completion: str
    source: str
    weight: float = 1.0
    rejected: str = ""
    context: str = "policy"
    draft: str = ""
    feedback: str = ""
    refinement: str = ""
    advantage: float | None = None
    ended: bool = True


@dataclasses.dataclass(frozen=True)
class Output:
    """What a policy writes for a held-out example. `values` are the task's own numbers about the text."""

    id: str
    text: str
    num_tokens: int
    stopped: bool
    logprob: float
    values: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MoreValues:
    """Numbers about a held-out example that are measured once all outputs are written; they join `Output.values`."""

    id: str
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class BestOfN:
    """N outputs for a held-out example, their rewards, the index of the picked one, and its `Output.values`."""

    id: str
    texts: list[str]
    rewards: list[float]
    chosen: int
    values: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two outputs for one document, and which of them somebody found better.

    Attributes:
        id: unique among the comparisons.
        preferred: "first" or "second".
    """

    id: str
    document: str
    first: str
    second: str
    preferred: str
    title: str = ""

    @property
    def example(self) -> Example:
        """The document that both are about."""
        return Example(self.id, self.document, self.title)

    @property
    def in_order(self) -> tuple[str, str]:
        """(Better, worse)."""
        return (self.first, self.second) if self.preferred == "first" else (self.second, self.first)


@dataclasses.dataclass(frozen=True)
class Preference:
    """What a reward model makes of a held-out comparison: its probability that the first text is the better one."""

    id: str
    probability: float
    preferred: str  # by people: "first" or "second"


@dataclasses.dataclass(frozen=True)
class Match:
    """Two systems over the same documents, judged in both orders. Outcomes: 1 the first wins, 0.5 a tie, 0 it loses.

    Attributes:
        id: "FIRST vs SECOND".
        outcomes: by example id.
        low, high: bounds of the win rate by bootstrap over documents, 95 %.
    """

    id: str
    first: str
    second: str
    outcomes: dict[str, float]
    win_rate: float
    stderr: float | None
    low: float
    high: float
    length_controlled: float


OF_STAGES: dict[str, type] = {
    "reward": Preference, "draft": Draft, "feedback": Feedback, "refine": Candidates, "score": Scored,
    "finetune": Target, "evaluate": Output, "best_of_n": BestOfN, "rank": Match,
}
"""What each stage's shards hold, in the order in which stages run."""


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON-ready dict. Raises ValueError if it holds what none may, see `problem`."""
    row = dict(vars(record))  # not asdict, which copies every list: records hold no records
    wrong = problem(type(record), row)
    if wrong:
        raise ValueError(f"document {record.id!r}: {wrong}")
    return row


def from_json(cls: type[R], row: Mapping[str, Any]) -> R:
    """The record that `to_json` wrote.

    Raises:
        TypeError: a field is unknown or missing.
        ValueError: a field holds something else than it may, see `problem`.
    """
    names = field_types.kinds(cls).keys()
    if not row.keys() <= names:
        unknown = next(name for name in row if name not in names)
        raise TypeError(f"unknown field {unknown!r}; fields are {', '.join(names)}")
    record = cls(**row)
    wrong = problem(cls, vars(record))
    if wrong:
        raise ValueError(wrong)
    return record


def from_written_line(cls: type[R], line: bytes) -> R:
    """The record of a line that `to_json` wrote and a digest proves unchanged, in a tenth of the time of `from_json`.

    Types and numbers are checked; a key that appears twice or that the record does not have goes unnoticed.

    Raises:
        ValueError: the line does not hold such a record.
    """
    record = _decoder(cls).decode(line)
    wrong = _problem_between_fields(cls, vars(record))
    if wrong:
        raise ValueError(wrong)
    return record


@functools.cache
def _decoder(cls: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(cls)


def problem(cls: type, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields of a record, if anything.

    Numbers are finite, texts can be written in UTF-8, lists over candidates are equally long, and what is chosen is
    among them.
    """
    return field_types.problem(cls, row) or _problem_between_fields(cls, row)


def _problem_between_fields(cls: type, row: Mapping[str, Any]) -> str | None:
    if cls not in _RELATED:
        return None
    along = [name for name in _ALONG_CANDIDATES.get(cls, ()) if row[name]]
    for name in along[1:]:
        if len(row[name]) != len(row[along[0]]):
            return f"{name} holds {len(row[name])} values, {along[0]} {len(row[along[0]])}"
    if "chosen" in row and along and not 0 <= row["chosen"] < len(row[along[0]]):
        return f"chosen is {row['chosen']}, of {len(row[along[0]])} candidates"
    if "picks" in row and not all(0 <= pick < len(row["scores"]) for pick in row["picks"].values()):
        return f"picks are {row['picks']}, of {len(row['scores'])} candidates"
    if cls is Feedback and (row["refinement_by"] in REFINEMENT_BY) != bool(row["refinement"]):
        return f"refinement_by is {row['refinement_by']!r}, and the refinement {'not ' * bool(row['refinement'])}empty"
    if cls in (Comparison, Preference) and row["preferred"] not in ("first", "second"):
        return f"preferred is {row['preferred']!r}, not 'first' or 'second'"
    return None


# The first of a record's fields that is not empty says how many candidates there are.
_ALONG_CANDIDATES: dict[type, tuple[str, ...]] = {
    Candidates: ("texts", "logprobs", "num_tokens", "stopped"), Scored: ("scores", "prompt_scores", "stderrs"),
    BestOfN: ("texts", "rewards"),
}
# Records in which one field has to fit another.
_RELATED = {*_ALONG_CANDIDATES, Comparison, Preference}
