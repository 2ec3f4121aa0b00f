"""Prompts as data: templates with named gaps, filled into a `Prompt` whose document may later be shortened."""

import dataclasses
import functools
import re
import string
from collections.abc import Mapping

from ilf_jax.errors import InputError

GAPS = ("title", "document", "draft", "feedback", "refinement", "first", "second")
_EMPTY = dict.fromkeys(GAPS, "")
_NAMED_GAPS = ", ".join("{" + gap + "}" for gap in GAPS)

# A gap is in single braces; doubled ones stand for themselves.
_GAP = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
_DOCUMENT = re.compile(r"(?<!\{)\{document\}(?!\})")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Text for a model. Only `document` may be cut to fit a context; what stands around it never is."""

    before: str
    document: str
    after: str

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.before + self.document + self.after


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt with a two-valued answer; the first of `answers` is the favourable one."""

    prompt: Prompt
    answers: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Templates of a task. Gaps: {title} {document} {draft} {feedback} {refinement} {first} {second}.

    A line whose gap would be empty is left out, so optional fields need no second template.

    Attributes:
        policy: what the policy sees (title, document).
        refine: what the refiner sees (also draft, feedback).
        refine_alone: what the refiner sees where there is no feedback.
        critic: asks for feedback on {draft}.
        judge: the InstructRM ensemble: (template, favourable answer, other answer); {refinement} stands late, so that
            all candidates of a document share what is before it.
        judge_tree: the same questions behind one head, word for word alike, so that the whole ensemble shares the
            document, draft and feedback, and the questions about one candidate share that too.
        compare: asks which of {first} and {second} is better, answered "A" or "B".
        rate: asks whether {draft} is good: (template, favourable answer, other answer); {draft} stands late.
        conditioned: what the policy sees that has read {feedback} before it writes; unset: a line before `policy`.
        demonstrated: the same with a {refinement} to learn from.
    """

    policy: str
    refine: str
    refine_alone: str
    critic: str
    judge: tuple[tuple[str, str, str], ...]
    judge_tree: tuple[tuple[str, str, str], ...]
    compare: str
    rate: tuple[str, str, str]
    conditioned: str = ""
    demonstrated: str = ""


def check_template(where: str, template: str, required: tuple[str, ...]) -> None:
    """Raises InputError naming `where` if the template has an unknown gap or lacks a required one."""
    try:
        gaps = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as e:
        raise InputError(f"{where}: not a template: {e} (write {{{{ and }}}} for literal braces)") from e
    for gap in sorted(gaps - set(GAPS)):
        raise InputError(f"{where}: unknown gap {{{gap}}}; allowed are {_NAMED_GAPS}")
    for gap in required:
        if gap not in gaps:
            raise InputError(f"{where}: the template lacks {{{gap}}}")


def fill(template: str, values: Mapping[str, str]) -> Prompt:
    """Fills the gaps; the first {document} becomes the part that may be shortened."""
    whole = {**_EMPTY, **values}
    before, after = _around_document(template, frozenset(filter(whole.get, whole)))
    if after is None:
        return Prompt(before.format(**whole), "", "")
    return Prompt(before.format(**whole), whole["document"], after.format(**whole))


def without_gaps(template: str) -> str:
    """What a template says itself: its text, a line for each line and for each gap's other side."""
    return _GAP.sub("\n", template)


@functools.lru_cache(maxsize=1024)
def _around_document(template: str, filled: frozenset[str]) -> tuple[str, str | None]:
    """What of a template stands before and behind its first {document}, less the lines with a gap that is not `filled`.

    Kept, because a run fills few templates many times. Behind is None where the template has no {document}.
    """
    kept = [line for line in template.split("\n") if filled.issuperset(_GAP.findall(line))]
    before, *after = _DOCUMENT.split("\n".join(kept), maxsplit=1)
    return before, after[0] if after else None
