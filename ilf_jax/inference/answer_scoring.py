"""Asking a model two-valued questions about texts: the prefix that questions share is computed once."""

import dataclasses
import operator
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import jax
import numpy as np
import scipy.special

from ilf_jax.inference import finite
from ilf_jax.inference.language_model import Branch, LanguageModel
from ilf_jax.inference.look_ahead import LOOKED_AT, LookAhead
from ilf_jax.models import flops, padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.prompts import Question

D = TypeVar("D")

ANSWER_ROOM = 4
"""Tokens kept free behind a question, for the part of an answer that both answers share."""

# What `answer_all` may compile: a stage has other programs beside those of its metrics.
_PROGRAMS_OF_METRICS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Q questions about each of a document's C texts: the prefix that all share (int32), and a branch for each text."""

    prefix: np.ndarray
    branches: list[Branch]

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return len(self.prefix) + sum(len(branch.tokens) for branch in self.branches)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedQuestions:
    """Q questions about each of a document's C texts, in two layouts; the answers are the same.

    Attributes:
        apart: Q groups of C x 1. Prompts of one question share what stands before the text that it is about.
        together: one group of C x Q, a tree: the prefix is what all prompts begin with, a stem what those about one
            text have in common behind that, and the questions are its leaves.
        exact: whether each answer is one token; if not, the first token that tells two answers apart is scored.
    """

    apart: list[Group]
    together: Group
    exact: bool

    def groups(self, together: bool) -> list[Group]:
        """The groups of one layout."""
        return [self.together] if together else self.apart

    def with_texts(self, count: int) -> "TokenizedQuestions":
        """The same about `count` texts, the last one again and again."""
        def more(group: Group) -> Group:
            return Group(group.prefix, [*group.branches, *group.branches[-1:] * (count - len(group.branches))])

        return TokenizedQuestions([more(group) for group in self.apart], more(self.together), self.exact)

    def num_tokens(self, together: bool) -> int:
        """Tokens to compute in one layout."""
        return sum(group.num_tokens for group in self.groups(together))

    def work(self, model: ModelConfig, together: bool) -> performance.Work:
        """What computing the answers takes in one layout."""
        needed = 0.0
        for group in self.groups(together):
            P = len(group.prefix)
            needed += flops.forward(model, tokens=P, seen=P / 2, unembedded=0)
            needed += sum(flops.forward(model, tokens=len(b.tokens), seen=P + len(b.tokens) / 2, unembedded=0)
                          for b in group.branches)
        return performance.Work(self.num_tokens(together), needed)


def ask(lm: LanguageModel, example_id: str, questions_CxQ: Sequence[Sequence[Question]]) -> TokenizedQuestions:
    """Tokenises Q questions about each of C texts, and finds the prefixes that they share.

    Args:
        lm: the model that will answer.
        example_id: of the document, for messages.
        questions_CxQ: the same Q kinds of question about each text.

    Raises:
        InputError: a prompt does not fit into the context.
    """
    count = len(questions_CxQ[0])
    flat = [question for questions_Q in questions_CxQ for question in questions_Q]
    unique = list(dict.fromkeys(flat))  # candidates are often equal, and so are the questions about them
    encoded = lm.encode(example_id, [q.prompt for q in unique], ANSWER_ROOM, answered=True)
    tokenized, exact = {}, True
    for prompt, question in zip(encoded, unique, strict=True):
        first, second = (lm.completion_text(prompt, answer) for answer in question.answers)
        tokens = lm.tokenizer.answer_tokens(prompt.text, prompt.ids, (first, second))
        tokenized[question] = [*prompt.ids, *tokens.common], tokens.ids
        exact = exact and tokens.exact
    rows, answers = map(list, zip(*(tokenized[question] for question in flat), strict=True))
    together = _group(rows, answers, count)
    apart = [_group(rows[q::count], answers[q::count], 1) for q in range(count)] if count > 1 else [together]
    return TokenizedQuestions(apart, together, exact)


def continuations(prompt: Sequence[int], rows: Sequence[Sequence[int]]) -> TokenizedQuestions:
    """C texts behind one prompt, for a model that says a number of its own after each: nothing is asked."""
    group = _group([[*prompt, *row] for row in rows], [(0, 0)] * len(rows), 1)
    return TokenizedQuestions([group], group, exact=True)


def _group(rows: list[list[int]], answers: list[tuple[int, int]], count: int) -> Group:
    """C x `count` prompts, those about one text one after another."""
    shared = padding.common_prefix(rows)
    behind = [row[shared:] for row in rows]
    return Group(np.array(rows[0][:shared], np.int32), [
        _branch(behind[i : i + count], answers[i : i + count]) for i in range(0, len(rows), count)])


def _branch(rows: list[list[int]], answers: list[tuple[int, int]]) -> Branch:
    stem = padding.common_prefix(rows)
    tokens, ends = rows[0][:stem], []
    for row in rows:
        tokens += row[stem:]
        ends.append(len(tokens) - 1)
    return Branch(np.array(tokens, np.int32), stem, tuple(ends), tuple(answers))


@dataclasses.dataclass(frozen=True)
class PromptLayout:
    """How questions are put to the device.

    Attributes:
        together: which of the two layouts of `TokenizedQuestions`; the same for all documents of a call, so that they
            fill batches.
        prefixes, branches: the lengths that they are padded to; buckets where empty.
    """

    together: bool
    prefixes: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()


def choose_layout(
    lm: LanguageModel, questions: Collection[TokenizedQuestions], share: float = 1.0, *,
    most: int = padding.MOST_PROGRAMS, purpose: str = "",
) -> PromptLayout:
    """The layout that computes fewest tokens, padding and programs to compile included.

    Args:
        lm: the model that will answer.
        questions: all that are going to be asked, or a sample of them.
        share: part of all that these are.
        most: programs that there may be.
        purpose: what is asked for; logged with what was chosen.
    """
    options = []
    for together in (False, True):
        groups = [group for document in questions for group in document.groups(together)]
        longest = [max(len(branch.tokens) for branch in group.branches) for group in groups]
        branches = [length for group, length in zip(groups, longest, strict=True) for _ in group.branches]
        prefixes = [len(group.prefix) for group in groups]
        cost, *lengths = lm.planner.paired_row_lengths(prefixes, branches, share, most=most)
        options.append((cost, PromptLayout(together, *lengths), prefixes, branches))
    _, layout, prefixes, branches = min(options, key=operator.itemgetter(0))
    if purpose and prefixes:
        lm.planner.say_pairs(purpose, (prefixes, layout.prefixes), (branches, layout.branches),
                             ("prefixes", "branches"))
    return layout


def choose_layout_for_part(questions: Collection[TokenizedQuestions]) -> PromptLayout:
    """The layout with fewer tokens, where only a part of the questions is known; rows are padded to buckets."""
    apart, joint = (sum(document.num_tokens(together) for document in questions) for together in (False, True))
    return PromptLayout(together=joint < apart)


def favourable_probability(logits: np.ndarray) -> np.ndarray:
    """p(yes) / (p(yes) + p(no)) from logits whose last axis is (favourable, other): a sigmoid of their difference."""
    difference = logits[..., 0].astype(np.float64) - logits[..., 1]
    return scipy.special.expit(difference)


def favourable_probabilities(
    lm: LanguageModel, questions: Sequence[TokenizedQuestions], batch_size: int, most: int = padding.MOST_PROGRAMS
) -> list[np.ndarray]:
    """p(favourable) / (p(favourable) + p(other)) of each question, one C x Q array a document, by `most` programs."""
    return start_scoring(lm, questions, batch_size, choose_layout(lm, questions, most=most)).result()


def answer_all(
    lm: LanguageModel, documents: LookAhead[D, TokenizedQuestions], items: Sequence[D], batch_size: int,
    purpose: str = "", read: Callable[[np.ndarray], np.ndarray] = favourable_probability,
) -> list[np.ndarray]:
    """What `read` makes of the answers about each of the documents `items`, C x Q; not all are held at once.

    Args:
        lm: the model that answers.
        documents: puts the questions about a document into tokens; made of the same `items`.
        items: the documents.
        batch_size: prefixes that are computed together.
        purpose: see `choose_layout`.
        read: see `start_scoring`.
    """
    layout = choose_layout(lm, documents.sample, documents.share, most=_PROGRAMS_OF_METRICS, purpose=purpose)
    answers: list[np.ndarray] = [np.empty(0)] * len(items)
    for part in padding.batches_by_length(documents.lengths, LOOKED_AT):
        part.sort()
        of_part = start_scoring(lm, [documents.encoded(items[i]) for i in part], batch_size, layout, read).result()
        for i, of_document in zip(part, of_part, strict=True):
            answers[i] = of_document
    return answers


def start_scoring(
    lm: LanguageModel, questions: Sequence[TokenizedQuestions], batch_size: int, layout: PromptLayout,
    read: Callable[[np.ndarray], np.ndarray] = favourable_probability,
) -> Pending[list[np.ndarray]]:
    """Starts to score questions, and returns at once.

    Args:
        lm: the model that answers.
        questions: one entry a document, all with the same Q and C.
        batch_size: prefixes that are computed together.
        layout: see `choose_layout`.
        read: makes a number of the logits of a question's answers, which stand on the last axis.

    Returns:
        A C x Q array for each document, of what `read` made.

    Raises:
        ValueError: there are more questions, or more texts, of one document than of another.
    """
    if len({(len(document.apart), len(document.together.branches)) for document in questions}) > 1:
        raise ValueError("documents of one call must have as many questions and as many texts")
    groups_by_document = [document.groups(layout.together) for document in questions]
    groups = [group for document_groups in groups_by_document for group in document_groups]
    batches: list[tuple[list[int], jax.Array]] = []
    for picked in padding.batches_by_length([len(group.prefix) for group in groups], batch_size):
        prefixes, branches = [groups[i].prefix for i in picked], [groups[i].branches for i in picked]
        prefix = padding.row_length(max(map(len, prefixes)), layout.prefixes, lm.planner.multiple)
        longest = max(len(branch.tokens) for group_branches in branches for branch in group_branches)
        branch = padding.row_length(longest, layout.branches)
        batches.append((picked, lm.answer_logits(prefixes, branches, batch_size, prefix, branch)))

    def finish() -> list[np.ndarray]:
        scores_by_group: dict[int, np.ndarray] = {}
        for picked, logits in batches:
            answers = np.asarray(performance.fetch(logits))
            finite.check(lm, answers[: len(picked)], "answers")
            rows = read(answers)
            scores_by_group |= zip(picked, rows, strict=False)  # rows beyond those picked only fill up the batch
        scores = (scores_by_group[i] for i in range(len(groups)))
        return [np.concatenate([next(scores) for _ in document_groups], axis=1)
                for document_groups in groups_by_document]

    return Pending(finish)
