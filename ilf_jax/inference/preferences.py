"""A judge that compares two texts about the same document, in both orders."""

import dataclasses
from collections.abc import Mapping, Sequence

from ilf_jax.evaluation import statistics, win_rate
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.records import Example
from ilf_jax.remote.remote_model import RemoteModel
from ilf_jax.tasks.task import Task


def both_orders(
    lm: LanguageModel | RemoteModel, task: Task, examples: Sequence[Example], ours: Mapping[str, str],
    theirs: Mapping[str, str], batch_size: int,
) -> tuple[list[float], list[float]]:
    """The judge's probability of "A" for each example: where A is ours, and where A is theirs.

    Args:
        lm: the judge, in memory or behind an endpoint.
        task: asks the question.
        examples: the documents.
        ours, theirs: texts by example id.
        batch_size: prefixes that are computed together.
    """
    return (_preferences(lm, task, examples, ours, theirs, batch_size),
            _preferences(lm, task, examples, theirs, ours, batch_size))


def win_rates(
    lm: LanguageModel | RemoteModel, task: Task, examples: Sequence[Example], ours: Mapping[str, str],
    theirs: Mapping[str, str], batch_size: int,
) -> list[statistics.Metric]:
    """How often ours is better than theirs: win_rate, and the same at equal length. Arguments as `both_orders`.

    `by_document` of the first has the outcome for each example: 1 ours wins, 0.5 a tie, 0 theirs wins.
    """
    orders = both_orders(lm, task, examples, ours, theirs, batch_size)
    results = win_rate.outcomes(*orders)
    our_lengths, their_lengths = ([float(len(side[e.id].split())) for e in examples] for side in (ours, theirs))
    controlled = win_rate.length_controlled_win_rate(results.tolist(), our_lengths, their_lengths)
    by_document = dict(zip((e.id for e in examples), results.tolist(), strict=True))
    return [dataclasses.replace(win_rate.win_rate(*orders), by_document=by_document), controlled]


def _preferences(
    lm: LanguageModel | RemoteModel, task: Task, examples: Sequence[Example], first: Mapping[str, str],
    second: Mapping[str, str], batch_size: int,
) -> list[float]:
    """The probability that the text shown first is better; 0.5 where both are equal, without asking.

    Args:
        lm: the judge, in memory or behind an endpoint.
        task: asks the question.
        examples: the documents.
        first, second: texts by example id, in the order in which they are shown.
        batch_size: prefixes that are computed together.
    """
    different = [e for e in examples if first[e.id] != second[e.id]]
    if isinstance(lm, RemoteModel):
        asked = [task.compare_question(e, first[e.id], second[e.id]) for e in different]
        given = lm.answer([(question.prompt.text, question.answers) for question in asked]).result()
        by_id = {e.id: answer.probability for e, answer in zip(different, given, strict=True)}
        return [by_id.get(e.id, 0.5) for e in examples]
    questions = LookAhead(
        different, key=lambda e: e.id,
        encode=lambda e: answer_scoring.ask(lm, e.id, [[task.compare_question(e, first[e.id], second[e.id])]]),
        tokens=lambda asked: asked.together.num_tokens,
        size=lambda e: text_size(e.document, first[e.id], second[e.id]))
    answers = answer_scoring.answer_all(lm, questions, different, batch_size)
    by_id = {e.id: p.item() for e, p in zip(different, answers, strict=True)}
    return [by_id.get(e.id, 0.5) for e in examples]
