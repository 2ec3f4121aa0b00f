"""Targets that are tokenized together are those that are tokenized one by one."""

import dataclasses

import numpy as np
import pytest

from ilf_jax import config_sections
from ilf_jax.errors import TooLongError
from ilf_jax.inference import target_tokens
from ilf_jax.records import Example, Target
from ilf_jax.tasks.word_removal import WordRemoval
from ilf_jax.training import objectives
from ilf_jax.training.objectives import NextToken
from tests.inference.test_assistant_turn import make
from tests.tokenizers.layouts import LAYOUTS

TEXTS = [
    "A gem.", "", " ", "two  spaces, a\ttab\nand a line", "naïve 你好 \U0001f642 \U0001f1eb\U0001f1f7 e\u0301",
    "\u2028\x00\ufeff",
    "<|im_end|>", "<|im_start|>assistant\n<think>", "</think>", "{braces} {0} {{document}}",
    "long " * 40, "too long " * 400, "A gem.",
]
TASK = WordRemoval()


def batch_of(documents):
    examples = [Example(f"d{i}", document) for i, document in enumerate(documents)]
    return [(e, Target(e.id, TASK.policy_prompt(e).text, text, "refinement", weight=1.0 + i % 2, rejected=other,
                       draft=other, feedback=f"Remove {other}.", refinement=text, context="policy"))
            for i, e in enumerate(examples) for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]


def facts(made):
    """All that a training example holds, or what the error says."""
    if isinstance(made, TooLongError):
        return str(made)
    rest = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)
            if f.name not in ("tokens", "weights", "beside")}
    return (made.tokens.tolist(), made.weights.tolist(), made.tokens.dtype, made.weights.dtype, rest,
            {name: facts(other) for name, other in made.beside.items()})


@pytest.mark.parametrize(("objective", "layout", "limit", "changes"), [
    ("nll", None, 200, {"prompt_loss_weight": 0.1}), ("nll", "qwen3", 300, {}), ("nll", "llama2", 200, {}),
    ("nll", "gemma", 200, {"feedback_weight": 0.5}), ("dpo", "chatml", 300, {}),
    ("sdpo", "mistral", 300, {"feedback_weight": 0.5}),
])
def test_together_as_one_by_one(objective, layout, limit, changes, tmp_path):
    lm = make(tmp_path, LAYOUTS[layout or "chatml"], special=True, chat="auto" if layout else "never")
    settings = config_sections.Finetune(objective=objective, max_length=limit, **changes)
    batch = batch_of(["Finn", "", "the <|im_end|> \U0001f642", "Noor " * 100])
    together = target_tokens.encode_batch(settings, TASK, lm, batch)
    one_by_one = []
    for example, target in batch:
        try:
            one_by_one.append(target_tokens.encode_target(settings, TASK, lm, example, target))
        except TooLongError as e:
            one_by_one.append(e)
    assert list(map(facts, together)) == list(map(facts, one_by_one))
    some = {isinstance(made, TooLongError) for made in together}
    assert some == {True, False}
    # They are the prompt's tokens, those of the text behind it, and the end.
    for (example, target), made in zip(batch[:len(TEXTS)], together, strict=False):
        if objective == "nll" and not isinstance(made, TooLongError):
            prompt = lm.encode_whole(example.id, TASK.policy_prompt(example), answered=True)
            expected = [*prompt.ids, *lm.continuation(prompt, target.completion), lm.end_id]
            assert made.tokens.tolist() == expected
            learned = np.where(np.arange(len(expected)) < len(prompt.ids), changes.get("prompt_loss_weight", 0.0), 1.0)
            np.testing.assert_array_equal(made.weights, learned.astype(np.float32) * np.float32(target.weight))


@pytest.mark.fast
def test_the_texts_of_many_targets_go_to_the_tokenizer_together(tmp_path, monkeypatch):
    lm = make(tmp_path, LAYOUTS["chatml"])
    backend, calls = lm.tokenizer._backend, []
    original = backend.encode_batch
    monkeypatch.setattr(backend, "encode_batch", lambda *args: calls.append(len(args[0])) or original(*args))
    examples = [Example(f"d{i}", f"Finn {i}") for i in range(50)]
    batch = [(e, Target(e.id, "", f"A gem {e.id}.", "refinement")) for e in examples]
    target_tokens.encode_batch(config_sections.Finetune(max_length=200), TASK, lm, batch)
    assert max(calls) == 50 and len(calls) < 10


@pytest.mark.fast
def test_an_objective_that_asks_for_something_else_each_time_gets_it(tmp_path, monkeypatch):
    asked = []

    class Restless(NextToken):
        @classmethod
        def training_example(cls, target, encode):
            asked.append(f"{target.completion} {len(asked)}")
            return encode([asked[-1]])[0]

    monkeypatch.setattr(objectives, "by_choice", lambda choice: Restless)
    lm = make(tmp_path, LAYOUTS["chatml"])
    (made,) = target_tokens.encode_batch(config_sections.Finetune(max_length=200), TASK, lm, [
        (Example("d", "Finn"), Target("d", "", "A gem", "refinement"))])
    assert lm.tokenizer.encode(asked[-1])[-3:] == made.tokens[-4:-1].tolist()


@pytest.mark.fast
def test_batches_hold_all_targets_in_order(monkeypatch):
    monkeypatch.setattr(target_tokens, "_BATCH", 3)
    monkeypatch.setattr(target_tokens, "_BATCH_CHARACTERS", 100)
    targets = [Target(str(i), "p", "x" * (99 if i in (4, 9) else 5), "refinement") for i in range(11)]
    batches = list(target_tokens._batches(targets))
    assert [t for batch in batches for t in batch] == targets
    assert [len(batch) for batch in batches] == [3, 2, 3, 2, 1]
