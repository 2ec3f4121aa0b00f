"""A run whose models think first: their thoughts stay within a budget, and out of what is read and learned."""

import dataclasses
import json

import jax
import pytest
from conftest import make_tiny_config

import ilf_jax
from ilf_jax import records
from ilf_jax.inference import thinking, training_texts
from ilf_jax.inference.generation import Generator
from ilf_jax.models import transformer
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from tests.tokenizers.layouts import QWEN3, save_tokenizer

pytestmark = pytest.mark.usefixtures("quick_compiles")

BUDGET = 40
EMPTY = "<think>\n\n</think>\n\n"


def test_a_run_that_thinks(tmp_path, monkeypatch):
    config = make_tiny_config()
    config.data.train_size, config.data.eval_size = 4, 2
    config.policy.tokenizer = save_tokenizer(tmp_path / "tokenizer", QWEN3, special=True)
    config.policy.thinking_tokens = config.refiner.thinking_tokens = BUDGET
    thought, learned = [], []

    def answer_prompt(lm, prompt, thoughts):
        behind = original_prompt(lm, prompt, thoughts)
        thought.append((lm, prompt, list(thoughts), behind))
        return behind

    def encode_batch(lm, batch, *rest):
        made = original_batch(lm, batch, *rest)
        learned.extend((lm, text, row) for texts, rows in zip(batch, made, strict=True)
                       for text, row in zip(texts.texts, rows, strict=True))
        return made

    original_prompt, original_batch = thinking.answer_prompt, training_texts.encode_batch
    monkeypatch.setattr(thinking, "answer_prompt", answer_prompt)
    monkeypatch.setattr(training_texts, "encode_batch", encode_batch)
    metrics = ilf_jax.run(config, tmp_path / "run")

    # The sampler: thoughts within the budget, then a closed block, then the output.
    assert {lm.name for lm, *_ in thought} == {"policy", "refiner"}
    ended = set()
    for lm, prompt, thoughts, behind in thought:
        assert prompt.text.endswith("<|im_start|>assistant\n") and 0 < len(thoughts) <= BUDGET
        assert behind.ids[: len(prompt.ids)] == prompt.ids
        written = lm.decode(behind.ids[len(prompt.ids) :])
        assert written.endswith("\n\n") and thinking.closes(written)
        assert len(behind.ids) - len(prompt.ids) <= lm.room(0)
        ended.add(thinking.closes(lm.decode(thoughts)))
    assert ended == {True, False}  # by the model, and by the budget
    # What is written to disk has no thoughts.
    folder = tmp_path / "run" / "iteration_001"
    texts = [text for path in sorted((folder / "refine").glob("[0-9]*.jsonl")) for line in path.read_text().splitlines()
             for text in records.from_json(records.Candidates, json.loads(line)).texts]
    texts += [records.from_json(records.Draft, json.loads(line)).text
              for path in sorted((folder / "draft").glob("[0-9]*.jsonl")) for line in path.read_text().splitlines()]
    assert any(texts) and not any(thinking.closes(text) or text.startswith("<think>") for text in texts)
    # The reviewing page streams what the stage draws, each output behind its own thoughts.
    used, prompt, *_ = next(of for of in thought if of[0].name == "refiner")
    lm = dataclasses.replace(used, params=transformer.init_params(used.architecture, jax.random.key(0)))
    keys = decode.candidate_keys(0, 1, "refine", [prompt.id], range(2))
    generator = Generator(lm, make_sampling(1.0, 0, 1.0), 8, 1, (), (lm.planner.bucket(len(prompt.ids)),))
    streamed, (drawn,) = list(generator.stream(prompt, keys[0])), generator.start([prompt], keys).result()
    assert {s.thought for s in streamed} == {s.thought for s in drawn} and all(s.thought for s in drawn)
    assert sorted(s.tokens.tolist() for s in streamed) == sorted(s.tokens.tolist() for s in drawn)
    # Sampler = trainer: log-probabilities behind the thoughts, by the training forward pass.
    (gap,) = [m["value"] for m in metrics if m["stage"] == "refine" and m["metric"] == "logprob_gap"]
    assert 0 < gap < 1e-3
    # The trainer: an empty block is read, and the text alone is learned.
    assert learned
    for lm, text, row in learned:
        assert row.tokens[row.weights > 0].tolist() == [*lm.tokenizer.encode(text), lm.end_id]
        assert lm.decode(row.tokens[row.weights == 0].tolist()).endswith(f"assistant\n{EMPTY}")
