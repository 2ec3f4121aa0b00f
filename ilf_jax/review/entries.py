"""What a reviewer says of one item, and checks of it: the same for a request of the page and for a row of a file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

PENDING, DRAFT, SUBMITTED, SKIPPED, FLAGGED = STATUSES = ("pending", "draft", "submitted", "skipped", "flagged")
"""Of an item in a reviewer's queue. A flagged item waits for somebody who knows better."""
CLOSED = (SUBMITTED, SKIPPED)
CHOICES = ("A", "B", "tie")
LONGEST_TEXT = 1_000_000  # characters of any one text
MOST_SPANS = 200


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of the draft and what is said of it. Offsets count Unicode characters (code points) from 0."""

    start: int
    end: int
    comment: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One reviewer's words on one item.

    Attributes:
        feedback: what is wrong with the draft, in plain language.
        important: its most important point.
        category: the class of that point, one of config.review.classes.
        refinement: the reviewer's own improved text, or a candidate taken over.
        rating: of the draft, from 1; None where none was given.
        spans: marked parts of the draft.
        better: of a comparison: "A", "B", "tie", or "".
        criteria: of a comparison: name of a criterion -> "A", "B" or "tie".
        taken_over: the candidate that was taken over, as the refiner wrote it; "" where none was.
    """

    feedback: str = ""
    important: str = ""
    category: str = ""
    refinement: str = ""
    rating: int | None = None
    spans: tuple[Span, ...] = ()
    better: str = ""
    criteria: Mapping[str, str] = dataclasses.field(default_factory=dict)
    taken_over: str = ""

    @property
    def refinement_by(self) -> str:
        """Who wrote the refinement, one of `records.REFINEMENT_BY`; "" where there is none."""
        if not self.refinement.strip():
            return ""
        if not self.taken_over:
            return "reviewer"
        return "refiner" if self.refinement.strip() == self.taken_over.strip() else "refiner, edited"

    @property
    def empty(self) -> bool:
        """Whether nothing has been said."""
        return self == Entry()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without what was left empty."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", None, (), {})}


@dataclasses.dataclass(frozen=True)
class Form:
    """What reviewers are asked for, from config.review.

    Attributes:
        classes: of the most important point.
        rating: the highest rating; 0: none is asked for.
        criteria: of comparisons, beside which text is better overall.
        guidelines: Markdown.
        overlap: reviewers wanted for each item.
    """

    classes: tuple[str, ...] = ("coverage", "accuracy", "coherence", "other")
    rating: int = 0
    criteria: tuple[str, ...] = ()
    guidelines: str = ""
    overlap: int = 1


def read(value: Any, form: Form, draft: str) -> Entry:
    """An entry from JSON.

    Args:
        draft: the text that spans are about.

    Raises:
        ValueError: says which field is wrong, and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError("an entry is an object")
    known = [field.name for field in dataclasses.fields(Entry)]
    unknown = [name for name in value if name not in known]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r:.60}; fields are {', '.join(known)}")
    texts = {name: _text(name, value.get(name, "")) for name in ("feedback", "important", "refinement", "taken_over")}
    return Entry(
        **texts, category=_choice("category", value.get("category", ""), form.classes),
        rating=_rating(value.get("rating"), form.rating), spans=_spans(value.get("spans", ()), len(draft)),
        better=_choice("better", value.get("better", ""), CHOICES),
        criteria=_criteria(value.get("criteria", {}), form.criteria))


def compose(entry: Entry, draft: str) -> str:
    """The feedback that a run learns from: the words, or else the most important point, then the marked parts."""
    said = [entry.feedback.strip() or entry.important.strip()]
    said += [f'"{draft[span.start:span.end]}": {span.comment.strip()}' for span in entry.spans if span.comment.strip()]
    return "\n".join(filter(None, said))


def problem_of_submission(entry: Entry, draft: str, is_pair: bool) -> str | None:
    """Why an entry cannot be submitted yet."""
    if is_pair:
        return None if entry.better else "say which text is better: A, B or tie"
    return None if compose(entry, draft) else "write feedback, or skip the item"


def status_of(counts: Mapping[str, int], overlap: int, decided: bool) -> str:
    """What an item has come to, from how many reviews of it have which status.

    It is done once it has `overlap` reviews, or somebody has decided between them; it is skipped if nobody gave
    feedback.
    """
    submitted, skipped = counts.get(SUBMITTED, 0), counts.get(SKIPPED, 0)
    if submitted and (decided or submitted + skipped >= overlap):
        return SUBMITTED
    if skipped >= overlap:
        return SKIPPED
    return FLAGGED if counts.get(FLAGGED) else PENDING


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(value):,} characters; at most {LONGEST_TEXT:,} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{name} has half a surrogate pair, which UTF-8 cannot encode") from e
    if "\0" in value:
        raise ValueError(f"{name} has a NUL character")
    return value


def _choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    if value != "" and value not in allowed:
        raise ValueError(f"{name} is {value!r:.60}; allowed are {', '.join(allowed)}, or nothing")
    return value


def _rating(value: Any, highest: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        allowed = f"allowed are 1 to {highest}" if highest else "no rating is asked for (config.review.rating)"
        raise ValueError(f"rating is {value!r:.60}; {allowed}")
    return value


def _spans(value: Any, length: int) -> tuple[Span, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_SPANS:
        raise ValueError(f"spans is a list of at most {MOST_SPANS}")
    spans = []
    for item in value:
        if not isinstance(item, Mapping) or set(item) != {"start", "end", "comment"}:
            raise ValueError("a span has start, end and comment")
        start, end = item["start"], item["end"]
        if any(isinstance(x, bool) or not isinstance(x, int) for x in (start, end)) or not 0 <= start < end <= length:
            raise ValueError(f"a span runs from start to end within the draft's {length} characters")
        spans.append(Span(start, end, _text("comment", item["comment"])))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def _criteria(value: Any, allowed: Sequence[str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("criteria is an object")
    for name in value:
        if name not in allowed:
            raise ValueError(f"there is no criterion {name!r:.60}; there are {', '.join(allowed) or 'none'} "
                             "(config.review.criteria, or --criteria)")
    return {name: _choice(name, choice, CHOICES) for name, choice in value.items() if choice != ""}
