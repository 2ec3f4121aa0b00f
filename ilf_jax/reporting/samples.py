"""Text samples of the report: a few examples with all texts about them, differences marked."""

import dataclasses
import difflib
import random
import re
from collections.abc import Iterable

from ilf_jax.records import Example
from ilf_jax.reporting.tables import number
from ilf_jax.reporting.workfolder import WorkFolder

SAMPLES = 8
SHORT_WORDS = 60  # of a document, shown before "show all"
SHOWN_CANDIDATES = 4  # the others are folded

Pieces = list[tuple[bool, str]]
"""(differs, text) runs that concatenate to the whole text."""


@dataclasses.dataclass(frozen=True)
class CandidateView:
    """One refinement. `picked_by` names the baseline scorers that pick it."""

    text: str
    score: str
    chosen: bool
    picked_by: list[str]
    stopped: bool


@dataclasses.dataclass(frozen=True)
class TrainingView:
    """A training example: its draft, feedback, refinements (best first), and the draft beside the chosen one."""

    id: str
    title: str
    opening: str
    document: str
    draft: Pieces
    feedback: str
    feedback_source: str
    chosen: Pieces
    candidates: list[CandidateView]
    reference: str


@dataclasses.dataclass(frozen=True)
class HeldOutView:
    """A held-out example: the policy's output before and after training."""

    id: str
    title: str
    opening: str
    document: str
    before: Pieces
    after: Pieces
    before_iteration: int
    after_iteration: int | None
    before_stopped: bool
    after_stopped: bool
    reference: str


def difference(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Splits both texts into runs of whole words that the other text has (False) or lacks (True)."""
    old, new = (re.findall(r"\s*\S+|\s+$", text) for text in (before, after))
    # Compares words without the space before them, so that a word that moved to the start of a line is equal.
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in old], [w.strip() for w in new], autojunk=False)
    left: Pieces = []
    right: Pieces = []
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        for side, words in ((left, old[i1:i2]), (right, new[j1:j2])):
            text = "".join(words)
            core = text.lstrip()
            # The space before a changed run stays unmarked: a mark that starts with a space looks ragged.
            space = text[: len(text) - len(core)]
            parts = [(False, text)] if kind == "equal" else [(False, space), (True, core)]
            side.extend(part for part in parts if part[1])
    return left, right


def side_by_side(before: str, after: str) -> tuple[Pieces, Pieces]:
    """`difference` for texts that share at least a third of their words in order; other texts stay unmarked.

    Marks on nearly every word would make unrelated texts hard to read.
    """
    left, right = difference(before, after)
    shared = sum(len(text.split()) for differs, text in left if not differs)
    if 3 * shared < max(len(before.split()), len(after.split())):
        return [(False, before)], [(False, after)]
    return left, right


def opening(text: str, words: int = SHORT_WORDS) -> str:
    """The first words of a long text; '' if the text is short enough to show whole."""
    all_words = text.split()
    return " ".join(all_words[:words]) if len(all_words) > words * 1.3 else ""


def pick(ids: Iterable[str], count: int = SAMPLES) -> list[str]:
    """A random sample of `count` ids, the same on every call."""
    ordered = sorted(ids)
    return random.Random(0).sample(ordered, min(count, len(ordered)))


def training_samples(work: WorkFolder) -> tuple[int, list[TrainingView]]:
    """Number and samples of the last iteration with scores, else refinements, else drafts; (0, []) if there is none."""
    for stage in ("score", "refine", "draft"):
        last = next((i for i in reversed(work.iterations) if i.rows(stage)), None)
        if last is not None:
            break
    else:
        return 0, []
    views = []
    for key in pick(last.rows(stage)):
        example = last.examples.get(key, Example(key, ""))
        draft, feedback = last.rows("draft").get(key), last.rows("feedback").get(key)
        before = draft.text if draft else example.draft
        refined, scored = last.rows("refine").get(key), last.rows("score").get(key)
        candidates: list[CandidateView] = []
        chosen = ""
        for i, text in enumerate(refined.texts if refined else ()):
            is_chosen = scored is not None and i == scored.chosen
            chosen = text if is_chosen else chosen
            candidates.append(
                CandidateView(
                    text=text,
                    score=number(scored.scores[i]) if scored else "",
                    chosen=is_chosen,
                    picked_by=[name for name, index in scored.picks.items() if index == i] if scored else [],
                    stopped=refined is not None and refined.stopped[i],
                )
            )
        order = sorted(range(len(candidates)), key=lambda i: -scored.scores[i]) if scored else range(len(candidates))
        order = sorted(order, key=lambda i: not candidates[i].chosen)
        left, right = difference(before, chosen) if chosen else ([(False, before)], [])
        views.append(
            TrainingView(
                id=key,
                title=example.title,
                opening=opening(example.document),
                document=example.document,
                draft=left,
                feedback=feedback.text if feedback else example.feedback,
                feedback_source=feedback.source if feedback else "",
                chosen=right,
                candidates=[candidates[i] for i in order],
                reference=example.human_refinement or example.reference,
            )
        )
    return last.number, views


def heldout_samples(work: WorkFolder) -> list[HeldOutView]:
    """Samples of the policy's outputs at the first and the last evaluation."""
    evaluated = [i for i in work.iterations if i.rows("evaluate")]
    if not evaluated:
        return []
    first, last = evaluated[0], evaluated[-1]
    both = set(first.rows("evaluate")) & set(last.rows("evaluate"))
    views = []
    for key in pick(both):
        example = last.heldout.get(key) or first.heldout.get(key) or Example(key, "")
        old, new = first.rows("evaluate")[key], last.rows("evaluate")[key]
        left, right = side_by_side(old.text, new.text) if last is not first else ([(False, old.text)], [])
        views.append(
            HeldOutView(
                id=key,
                title=example.title,
                opening=opening(example.document),
                document=example.document,
                before=left,
                after=right,
                before_iteration=first.number,
                after_iteration=last.number if last is not first else None,
                before_stopped=old.stopped,
                after_stopped=new.stopped,
                reference=example.reference or example.human_refinement,
            )
        )
    return views
