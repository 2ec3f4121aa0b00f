"""Numbers of single outputs: their means are the metrics, so that two runs can be compared document by document."""

import numpy as np
import pytest

from ilf_jax.evaluation import output_metrics, statistics
from ilf_jax.records import Example

pytestmark = pytest.mark.fast

EXAMPLES = [Example("a", "doc", reference="the cat sat"), Example("b", "doc", reference="a dog"), Example("c", "doc")]
TEXTS = {"a": "the cat ran", "b": "a dog", "c": "neither"}


def measure(example, text):
    return {"letters": len(text), "is_short": text == "a dog"}


def measure_all(texts, examples):
    found = [measure(e, texts[e.id]) for e in examples]
    return [statistics.mean(name, [row[name] for row in found]) for name in ("letters", "is_short")]


def test_their_means_are_the_metrics():
    values = [output_metrics.values_of(e, TEXTS[e.id], measure, with_rouge=True, exact_match=True) for e in EXAMPLES]
    metrics = {m.name: m.value for m in output_metrics.output_metrics(
        TEXTS, EXAMPLES, measure_all, with_rouge=True, exact_match=True)}
    names = ("letters", "is_short", "rouge_1", "rouge_2", "rouge_l", "exact_match")
    for name in names:
        assert np.mean([row[name] for row in values if name in row]) == pytest.approx(metrics[name]), name
    assert set(values[0]) == set(names) and set(values[2]) == {"letters", "is_short"}  # without a reference
    assert all(isinstance(value, float) for row in values for value in row.values())


def test_only_what_was_asked_for():
    assert set(output_metrics.values_of(EXAMPLES[0], "x", measure, with_rouge=False, exact_match=False)) == {
        "letters", "is_short"}
