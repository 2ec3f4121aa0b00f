"""Asking a model two-valued questions about texts: the prefix that questions share is computed once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ilf_jax.scoring import instruct_rm
from ilf_jax.stages import batching
from ilf_jax.stages.role import Role
from ilf_jax.tasks.prompts import Question

# Tokens kept free behind a question, for the part of an answer that both answers share.
_ANSWER_ROOM = 4


@dataclasses.dataclass(frozen=True)
class Group:
    """C questions about one document that differ only late: one shared prefix, C suffixes, the answers' token ids."""

    prefix: list[int]
    suffixes: list[list[int]]
    answers: list[tuple[int, int]]
    exact: bool


def make_group(role: Role, example_id: str, questions: Sequence[Question]) -> Group:
    """Tokenises the questions and finds what they share."""
    encoded = role.encode(example_id, [q.prompt for q in questions], reserve=_ANSWER_ROOM)
    rows, answers, exact = [], [], True
    for prompt, question in zip(encoded, questions, strict=True):
        first, second = (role.completion_text(prompt, answer) for answer in question.answers)
        tokens = role.tokenizer.answer_tokens(prompt.text, prompt.ids, (first, second))
        rows.append([*prompt.ids, *tokens.common])
        answers.append(tokens.ids)
        exact = exact and tokens.exact
    shared = batching.common_prefix(rows)
    return Group(rows[0][:shared], [row[shared:] for row in rows], answers, exact)


def favourable_probabilities(role: Role, groups: Sequence[Group], batch_size: int) -> list[np.ndarray]:
    """p(favourable) / (p(favourable) + p(other)) of each question, one array of C numbers a group."""
    found: list[np.ndarray] = [np.empty(0)] * len(groups)
    for batch in batching.batches_by_length([len(g.prefix) for g in groups], batch_size):
        picked = [groups[i] for i in batch]
        logits = role.answer_logits(
            [g.prefix for g in picked], [g.suffixes for g in picked], [g.answers for g in picked], batch_size
        )
        for i, row in zip(batch, instruct_rm.favourable_probability(logits), strict=True):
            found[i] = row
    return found
