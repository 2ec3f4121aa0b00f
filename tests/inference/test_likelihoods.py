"""Likelihoods of many texts: few programs, and the same numbers as one by one."""

import numpy as np
import pytest

from ilf_jax.evaluation import likelihood
from ilf_jax.inference import likelihoods
from ilf_jax.models import padding
from ilf_jax.records import Example
from ilf_jax.runtime import progress
from ilf_jax.tasks import word_removal
from tests.inference.test_generation import lm

TASK = word_removal.WordRemoval()


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    return [(Example(str(i), "Ada" + " the baker" * n), "Ada is" + " kind and" * m + " wise.")
            for i, (n, m) in enumerate(rng.integers(0, 9, (40, 2)))]


def test_forty_mixed_texts_take_two_shapes_and_their_numbers_do_not_depend_on_them(texts, monkeypatch):
    model, shapes = lm(), set()
    right = []
    for example, text in texts:
        (prompt,) = model.encode(example.id, [TASK.policy_prompt(example)], 80, answered=True)
        right += model.logprobs([(prompt.ids, [*model.continuation(prompt, text), model.end_id])], 1)
    program = type(model.placement).jit

    def counted(self, step, **options):
        jitted = program(self, step, **options)

        def call(*args, **kwargs):
            shapes.add(tuple((name, a.shape) for name, a in sorted(args[2].items())))
            return jitted(*args, **kwargs)

        return call

    monkeypatch.setattr(type(model.placement), "jit", counted)
    found = likelihoods.nll(TASK.policy_prompt, model, "nll", texts)
    assert len(shapes) <= 2 < len({padding.bucket(len(logprobs)) for logprobs in right})
    assert found.value == pytest.approx(likelihood.negative_log_likelihood("nll", right).value, abs=1e-5)
    assert [*found.by_document] == [example.id for example, _ in texts]
    assert [*found.by_document.values()] == pytest.approx(likelihood.of_texts(right), abs=1e-5)


def test_a_stage_says_what_it_pads_to(monkeypatch, texts):
    said = []
    monkeypatch.setattr(progress, "log", said.append)
    of_sequences, per_token = likelihoods.divergence(
        "kl", (lm(), TASK.policy_prompt), (lm(), TASK.policy_prompt), [e for e, _ in texts[:3]], seed=0, iteration=1,
        max_new_tokens=8, batch_size=4)
    assert {*of_sequences.by_document} == {e.id for e, _ in texts[:3]} and not per_token.by_document
    assert [line.split(":")[0] for line in said] == ["kl"] and " of the tokens are padding" in said[0]
