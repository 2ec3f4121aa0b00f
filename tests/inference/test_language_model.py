from pathlib import Path

import pytest

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io
from ilf_jax.models.compute import FLOAT32
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.tokenizer import Tokenizer

pytestmark = [pytest.mark.fast, pytest.mark.versions]

URI = "builtin:word_removal_1m"
CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(URI)


def make(tokenizer, **settings):
    model = checkpoint_io.read_config(URI)
    placement = Placement(sharding.make_mesh(-1, 1, 1), model)
    settings = config_sections.Model(checkpoint=URI, **settings)
    return LanguageModel("policy", settings, model, {}, tokenizer, placement, FLOAT32)


@pytest.mark.parametrize("character", ["a", "😀", "漢", "ᚠ"])
def test_shortening_ends_whatever_the_cut_leaves_of_a_character(tokenizer, character):
    lm = make(tokenizer, max_prompt_length=40)
    (encoded,) = lm.encode("1", [Prompt("Read this: ", character * 300, "\nText:")], reserve=8)
    assert len(encoded.ids) <= 40
    assert encoded.text.startswith("Read this: ") and encoded.text.endswith("\nText:")
    assert set(encoded.text.removeprefix("Read this: ").removesuffix("\nText:")) == {character}


def test_prompts_about_one_document_are_shortened_alike(tokenizer):
    lm = make(tokenizer, max_prompt_length=60)
    document = "one two three four five six seven eight nine ten " * 10
    encoded = lm.encode("1", [Prompt("", document, f"\n{end}") for end in ("A:", "a much longer end:")], reserve=8)
    first, second = (e.text.rpartition("\n")[0] for e in encoded)
    assert first == second and document.startswith(first)


def test_what_cannot_be_shortened_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"policy prompt of document '7' has \d+ tokens, and 20 are allowed"):
        make(tokenizer, max_prompt_length=20).encode("7", [Prompt("long " * 50, "", "")], reserve=8)


def test_the_end_of_a_chat_turn_is_what_the_template_writes():
    """<|eot_id|>, and not the <|end_of_text|> that ends a document."""
    with_chat = Tokenizer.load(f"hf:{CASES / 'turn_end_not_in_eos'}")
    assert make(with_chat, chat="auto").end_id == with_chat.encode("<|eot_id|>", special=True)[0]
    assert make(with_chat, chat="never").end_id == with_chat.encode("<|end_of_text|>", special=True)[0]
