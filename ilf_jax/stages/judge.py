"""Asking a model two-valued questions about texts: the prefix that questions share is computed once."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from ilf_jax import performance
from ilf_jax.models import flops
from ilf_jax.models.config import ModelConfig
from ilf_jax.scoring import instruct_rm
from ilf_jax.stages import batching
from ilf_jax.stages.role import Branch, Role
from ilf_jax.tasks.prompts import Question

# Tokens kept free behind a question, for the part of an answer that both answers share.
_ANSWER_ROOM = 4


@dataclasses.dataclass(frozen=True)
class Group:
    """Q questions about each of a document's C texts: the prefix that all share (int32), and a branch for each text."""

    prefix: np.ndarray
    branches: list[Branch]

    @property
    def num_questions(self) -> int:
        """Q: how many questions a branch asks."""
        return len(self.branches[0].ends)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return len(self.prefix) + sum(len(branch.tokens) for branch in self.branches)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Everything asked about one document: C x Q questions in one group, or C x 1 in each of Q groups.

    Attributes:
        exact: whether each answer is one token; if not, the first token that tells two answers apart is scored.
    """

    groups: list[Group]
    exact: bool

    def work(self, model: ModelConfig) -> performance.Work:
        """What computing the answers takes."""
        needed = 0.0
        for group in self.groups:
            P = len(group.prefix)
            needed += flops.forward(model, tokens=P, seen=P / 2, unembedded=0)
            needed += sum(flops.forward(model, tokens=len(b.tokens), seen=P + len(b.tokens) / 2, unembedded=0)
                          for b in group.branches)
        return performance.Work(sum(group.num_tokens for group in self.groups), needed)


def ask(role: Role, example_id: str, questions_CxQ: Sequence[Sequence[Question]]) -> Asked:
    """Tokenises Q questions about each of C texts, and finds what they share.

    Prompts of one question share what stands before the text that it is about. If the questions begin alike, one tree
    holds them all: the prefix is what all prompts begin with, a stem what those about one text have in common behind
    that, and the questions are its leaves. Whichever way computes fewer tokens is taken.
    """
    count = len(questions_CxQ[0])
    flat = [question for about_one in questions_CxQ for question in about_one]
    encoded = role.encode(example_id, [q.prompt for q in flat], reserve=_ANSWER_ROOM)
    rows, answers, exact = [], [], True
    for prompt, question in zip(encoded, flat, strict=True):
        first, second = (role.completion_text(prompt, answer) for answer in question.answers)
        tokens = role.tokenizer.answer_tokens(prompt.text, prompt.ids, (first, second))
        rows.append([*prompt.ids, *tokens.common])
        answers.append(tokens.ids)
        exact = exact and tokens.exact
    apart = [_group(rows[q::count], answers[q::count], 1) for q in range(count)]
    together = [_group(rows, answers, count)]
    return Asked(min(apart, together, key=lambda groups: sum(g.num_tokens for g in groups)), exact)


def continuations(prompt: Sequence[int], rows: Sequence[Sequence[int]]) -> Asked:
    """C texts behind one prompt, for a model that says a number of its own after each: nothing is asked."""
    return Asked([_group([[*prompt, *row] for row in rows], [(0, 0)] * len(rows), 1)], exact=True)


def _group(rows: list[list[int]], answers: list[tuple[int, int]], count: int) -> Group:
    """C x `count` prompts, those about one text one after another."""
    shared = batching.common_prefix(rows)
    behind = [row[shared:] for row in rows]
    return Group(np.array(rows[0][:shared], np.int32), [
        _branch(behind[i : i + count], answers[i : i + count]) for i in range(0, len(rows), count)])


def _branch(rows: list[list[int]], answers: list[tuple[int, int]]) -> Branch:
    stem = batching.common_prefix(rows)
    tokens, ends = rows[0][:stem], []
    for row in rows:
        tokens += row[stem:]
        ends.append(len(tokens) - 1)
    return Branch(np.array(tokens, np.int32), stem, tuple(ends), tuple(answers))


@dataclasses.dataclass(frozen=True)
class RowLengths:
    """What prefixes and branches are padded to, by how many questions a branch asks; to buckets where nothing is said.
    """

    prefixes: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    branches: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def row_lengths(role: Role, asked: Iterable[Asked]) -> RowLengths:
    """For all that is going to be asked, so that few programs serve it."""
    prefixes, branches = collections.defaultdict(list), collections.defaultdict(list)
    for one in asked:
        for group in one.groups:
            prefixes[group.num_questions].append(len(group.prefix))
            longest = max(len(branch.tokens) for branch in group.branches)
            branches[group.num_questions] += [longest] * len(group.branches)
    paired = {count: role.paired_row_lengths(prefixes[count], branches[count]) for count in sorted(prefixes)}
    return RowLengths(*({count: lengths[kind] for count, lengths in paired.items()} for kind in (0, 1)))


def favourable_probabilities(role: Role, asked: Sequence[Asked], batch_size: int) -> list[np.ndarray]:
    """p(favourable) / (p(favourable) + p(other)) of each question, one C x Q array a document."""
    return start_asking(role, asked, batch_size, row_lengths(role, asked))()


def start_asking(
    role: Role, asked: Sequence[Asked], batch_size: int, lengths: RowLengths,
    read: Callable[[np.ndarray], np.ndarray] = instruct_rm.favourable_probability,
) -> Callable[[], list[np.ndarray]]:
    """As `favourable_probabilities`, but returns while the device is at work; what it returns waits.

    Args:
        read: makes a number of the logits of a question's answers, which stand on the last axis.
    """
    groups = [group for one in asked for group in one.groups]
    batches: list[tuple[list[int], jax.Array]] = []
    for count in sorted({group.num_questions for group in groups}):  # those of a batch ask as many questions
        alike = [i for i, group in enumerate(groups) if group.num_questions == count]
        for batch in batching.batches_by_length([len(groups[i].prefix) for i in alike], batch_size):
            picked = [alike[j] for j in batch]
            prefixes, branches = [groups[i].prefix for i in picked], [groups[i].branches for i in picked]
            prefix = batching.row_length(max(map(len, prefixes)), lengths.prefixes.get(count, ()))
            longest = max(len(branch.tokens) for group in branches for branch in group)
            branch = batching.row_length(longest, lengths.branches.get(count, ()))
            batches.append((picked, role.answer_logits(prefixes, branches, batch_size, prefix, branch)))

    def probabilities() -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for picked, logits in batches:
            rows = read(performance.fetch(logits))
            found |= zip(picked, rows, strict=False)  # rows beyond those picked only fill up the batch
        scores = (found[i] for i in range(len(groups)))
        return [np.concatenate([next(scores) for _ in one.groups], axis=1) for one in asked]

    return probabilities
