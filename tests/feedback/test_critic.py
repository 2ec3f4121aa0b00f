"""What of a critic's output becomes feedback: whole sentences, and a second try where it only repeats its prompt."""

from types import SimpleNamespace

import numpy as np
import pytest

from ilf_jax import config as config_lib
from ilf_jax.feedback import critic
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.inference.generation import Generator, Sample
from ilf_jax.inference.language_model import Encoded
from ilf_jax.records import Example
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.summarize import Summarize

pytestmark = pytest.mark.fast

DRAFT = "A cat sat on the mat."
DOCUMENTS = tuple(DraftedDocument(Example(i, f"Document {i} about a cat.", title="t"), DRAFT) for i in "abc")


@pytest.fixture
def give(monkeypatch, tmp_path):
    """give(first, second) -> (feedback by id, the temperatures and ids that were asked for); texts by document's id."""

    class Language:
        name, tokenizer, thinking_tokens = "critic", SimpleNamespace(encode=str.split), 0
        planner = SimpleNamespace(row_lengths=lambda lengths, share, **_: ())

        def encode(self, example_id, prompts, reserve):
            return [Encoded(example_id, prompts[0].text, [1, 2])]

        def room(self, new_tokens):
            return new_tokens

    def run(first, second):
        asked = []

        def start(self, prompts, keys):
            asked.append((float(self.sampling.temperature), [p.id for p in prompts], keys.tobytes()))
            texts = first if len(asked) == 1 else second
            samples = [texts[p.id] for p in prompts]
            return Pending.ready([[Sample(text, np.array([1]), np.zeros(1), stopped)] for text, stopped in samples])

        monkeypatch.setattr(Generator, "start", start)
        config, roles = config_lib.Config(), SimpleNamespace(get=lambda name: Language())
        source = critic.Critic(SourceContext(config, Summarize(), roles, 1, tmp_path, DOCUMENTS))
        return {f.id: f for f in source.start(DOCUMENTS).result()}, asked

    return run


def test_half_a_sentence_is_cut_off(give):
    drawn = {"a": ("Say where. And also whe", False), "b": (" Say where\n", True), "c": ("Say whe", False)}
    found, asked = give(drawn, {})
    assert {i: f.text for i, f in found.items()} == {"a": "Say where.", "b": "Say where", "c": "Say whe"}
    assert not any(f.redrawn for f in found.values()) and len(asked) == 1


def test_an_echo_is_drawn_once_more_and_reported(give):
    document = DOCUMENTS[2].example.document
    first = {"a": (f'"{DRAFT.upper()}"', True), "b": ("Say where it sat.", True), "c": (document, True)}
    found, asked = give(first, {"a": ("Name the cat.", True), "c": (DRAFT, True)})
    assert [(f.text, f.redrawn) for f in found.values()] == [
        ("Name the cat.", True), ("Say where it sat.", False), (DRAFT, True)]  # no third try
    (temperature, ids, keys), (second_temperature, again, other_keys) = asked
    assert (ids, again) == (["a", "b", "c"], ["a", "c"])
    assert second_temperature >= max(0.7, temperature) - 1e-6 and not keys.startswith(other_keys)
