"""Asking a model two-valued questions about texts: the prefix that questions share is computed once."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

import jax
import numpy as np
import scipy.special

from ilf_jax.inference.language_model import Branch, LanguageModel
from ilf_jax.models import flops, padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.prompts import Question

# Tokens kept free behind a question, for the part of an answer that both answers share.
_ANSWER_ROOM = 4


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
    """Q questions about each of a document's C texts, in two arrangements; the answers are the same.

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
        """Those of one arrangement."""
        return [self.together] if together else self.apart

    def num_tokens(self, together: bool) -> int:
        """Tokens to compute in one arrangement."""
        return sum(group.num_tokens for group in self.groups(together))

    def work(self, model: ModelConfig, together: bool) -> performance.Work:
        """What computing the answers takes in one arrangement."""
        needed = 0.0
        for group in self.groups(together):
            P = len(group.prefix)
            needed += flops.forward(model, tokens=P, seen=P / 2, unembedded=0)
            needed += sum(flops.forward(model, tokens=len(b.tokens), seen=P + len(b.tokens) / 2, unembedded=0)
                          for b in group.branches)
        return performance.Work(self.num_tokens(together), needed)


def ask(lm: LanguageModel, example_id: str, questions_CxQ: Sequence[Sequence[Question]]) -> TokenizedQuestions:
    """Tokenises Q questions about each of C texts, and finds what they share."""
    count = len(questions_CxQ[0])
    flat = [question for about_one in questions_CxQ for question in about_one]
    unlike = list(dict.fromkeys(flat))  # candidates often are equal, and then so is what is asked about them
    encoded = lm.encode(example_id, [q.prompt for q in unlike], reserve=_ANSWER_ROOM)
    found, exact = {}, True
    for prompt, question in zip(encoded, unlike, strict=True):
        first, second = (lm.completion_text(prompt, answer) for answer in question.answers)
        tokens = lm.tokenizer.answer_tokens(prompt.text, prompt.ids, (first, second))
        found[question] = [*prompt.ids, *tokens.common], tokens.ids
        exact = exact and tokens.exact
    rows, answers = map(list, zip(*(found[question] for question in flat), strict=True))
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
        prefixes, branches: what those are padded to; to buckets where nothing is said.
    """

    together: bool
    prefixes: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()


def choose_layout(lm: LanguageModel, asked: Collection[TokenizedQuestions]) -> PromptLayout:
    """By all that is going to be asked: what computes fewest tokens, padding and programs to compile included."""
    found = []
    for together in (False, True):
        groups = [group for one in asked for group in one.groups(together)]
        longest = [max(len(branch.tokens) for branch in group.branches) for group in groups]
        branches = [length for group, length in zip(groups, longest, strict=True) for _ in group.branches]
        cost, *lengths = lm.paired_row_lengths([len(group.prefix) for group in groups], branches)
        found.append((cost, PromptLayout(together, *lengths)))
    return min(found, key=lambda pair: pair[0])[1]


def choose_layout_for_part(asked: Collection[TokenizedQuestions]) -> PromptLayout:
    """By a part of what is going to be asked: what computes fewer tokens, in rows padded to buckets."""
    apart, joint = (sum(one.num_tokens(together) for one in asked) for together in (False, True))
    return PromptLayout(together=joint < apart)


def favourable_probability(logits: np.ndarray) -> np.ndarray:
    """p(yes) / (p(yes) + p(no)) from logits whose last axis is (favourable, other): a sigmoid of their difference."""
    difference = logits[..., 0].astype(np.float64) - logits[..., 1]
    return scipy.special.expit(difference)


def favourable_probabilities(
    lm: LanguageModel, asked: Sequence[TokenizedQuestions], batch_size: int
) -> list[np.ndarray]:
    """p(favourable) / (p(favourable) + p(other)) of each question, one C x Q array a document."""
    return start_scoring(lm, asked, batch_size, choose_layout(lm, asked)).result()


def start_scoring(
    lm: LanguageModel, asked: Sequence[TokenizedQuestions], batch_size: int, arrangement: PromptLayout,
    read: Callable[[np.ndarray], np.ndarray] = favourable_probability,
) -> Pending[list[np.ndarray]]:
    """As `favourable_probabilities`, but returns while the device is at work; what it returns waits.

    Args:
        asked: as many questions about as many texts of each document.
        arrangement: how they are put, see `choose_layout`.
        read: makes a number of the logits of a question's answers, which stand on the last axis.

    Raises:
        ValueError: there are more questions, or more texts, of one document than of another.
    """
    if len({(len(one.apart), len(one.together.branches)) for one in asked}) > 1:
        raise ValueError("documents of one call must have as many questions and as many texts")
    groups_of = [one.groups(arrangement.together) for one in asked]
    groups = [group for of_one in groups_of for group in of_one]
    batches: list[tuple[list[int], jax.Array]] = []
    for picked in padding.batches_by_length([len(group.prefix) for group in groups], batch_size):
        prefixes, branches = [groups[i].prefix for i in picked], [groups[i].branches for i in picked]
        prefix = padding.row_length(max(map(len, prefixes)), arrangement.prefixes)
        longest = max(len(branch.tokens) for of_one in branches for branch in of_one)
        branch = padding.row_length(longest, arrangement.branches)
        batches.append((picked, lm.answer_logits(prefixes, branches, batch_size, prefix, branch)))

    def probabilities() -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for picked, logits in batches:
            rows = read(performance.fetch(logits))
            found |= zip(picked, rows, strict=False)  # rows beyond those picked only fill up the batch
        scores = (found[i] for i in range(len(groups)))
        return [np.concatenate([next(scores) for _ in of_one], axis=1) for of_one in groups_of]

    return Pending(probabilities)
