"""Mutated chat templates render as the sandboxed jinja2 does or are refused; control tokens in data stay letters."""

import functools
import io
import json
import random
import resource
import string
import time

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st
from limits import Outcomes, counted

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import chat_templates
from ilf_jax.tokenizers.chat_templates import ChatTemplates
from ilf_jax.tokenizers.tokenizer import Tokenizer
from tests.tokenizers.layouts import CHATML, CONTROL, LAYOUTS, save_tokenizer

# What mutations put into templates: parts of the language, and what takes long or much.
PIECES = (
    "{{", "}}", "{%", "%}", "{#", "#}", "-", "~", "*", "**", "10**9", "'a' * 10**10", "range(10**8)", "[0] * 10**10",
    "{% for i in range(9999) %}", "{% endfor %}", "{% if messages %}", "{% endif %}", "{% set x = x ~ x %}", "loop(x)",
    "{% macro f() %}", "{{ f() }}", "{% endmacro %}", "| tojson", "| join('x' * 10**8)", "__class__", "messages",
    "{% generation %}", "{% endgeneration %}", "{% break %}", "1 / 0", "{% include 'x' %}", "\udc80", "\x00", "é",
    "raise_exception('no')", "namespace(a=1)", "m.content", "bos_token", "[::-1]", "| replace('a', 'b' * 10**8)",
)
OUTCOMES = {name: Outcomes() for name in ("templates", "values for a template")}
counts = counted(**OUTCOMES)
MESSAGES = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"})


@pytest.fixture(scope="module", autouse=True)
def impatient():
    """A worker that gives up sooner, so that the tests end sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_templates, "SECONDS", 0.3)
        patch.setattr(chat_templates, "_WORKER", chat_templates._Worker())
        yield
        chat_templates._WORKER.close()


@st.composite
def mutated_templates(draw):
    source = draw(st.sampled_from(sorted(LAYOUTS.values())))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(source))), draw(st.integers(0, 12))
        piece = draw(st.sampled_from(PIECES) | st.text(string.printable, max_size=4))
        source = source[:at] + piece + source[at + length :]
    return source


@hypothesis.given(mutated_templates(), st.booleans())
def test_mutated_templates_render_or_are_refused(source, opens):
    began = time.monotonic()
    templates = ChatTemplates({"default": source}, {"bos_token": "<s>", "eos_token": "</s>"}, "a.jinja")
    try:
        (text,) = templates.render([MESSAGES], add_generation_prompt=opens)
    except InputError as error:
        OUTCOMES["templates"]["InputError"] += 1
        assert str(error).startswith("a.jinja: the chat template failed: ")
    else:
        OUTCOMES["templates"]["equal"] += 1
        assert text == templates.render([MESSAGES, MESSAGES], add_generation_prompt=opens)[1]
    assert time.monotonic() - began < 10
    assert ChatTemplates({"default": CHATML}, {}, "b").render([MESSAGES], add_generation_prompt=False)


def _values():
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    return st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


@hypothesis.given(_values() | st.lists(st.fixed_dictionaries({"name": _values(), "template": _values()}), max_size=3))
def test_whatever_stands_for_a_template(value):
    try:
        named = chat_templates.named(value, "x.json")
    except InputError as error:
        OUTCOMES["values for a template"]["InputError"] += 1
        assert str(error).startswith("x.json: chat_template")
    else:
        OUTCOMES["values for a template"]["equal"] += 1
        assert all(isinstance(text, str) for pair in named.items() for text in pair)


@functools.cache
def _sentencepiece_proto():
    out, letters = io.BytesIO(), [c * 3 for c in string.ascii_letters]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*letters, "hello there the cat", "yes and no"]), model_writer=out, vocab_size=340,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        control_symbols=["<|im_start|>", "<|im_end|>"])
    return out.getvalue()


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece", "sentencepiece not legacy"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte_level":
        return Tokenizer.load(save_tokenizer(folder, CHATML))
    (folder / "tokenizer.model").write_bytes(_sentencepiece_proto())
    legacy = request.param == "sentencepiece"
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "chat_template": CHATML}))
    return Tokenizer.load(f"hf:{folder}")


# Whole control tokens, parts of them, and what could pass for one or for a mark.
_PARTS = st.sampled_from([*CONTROL, "<|", "|>", "<s", "im_end", "<|im_<|im_end|>", " ", "\n", "hello", "\udc00", "é"])


@hypothesis.given(st.lists(_PARTS | st.text(max_size=3), max_size=8).map("".join),
                  st.lists(_PARTS, max_size=3).map("".join))
def test_control_tokens_in_data_stay_letters(tokenizer, text, more):
    """Only the template's own are ids; joined texts are split alike; without any, nothing differs from one encoding."""
    before, behind = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    control = {tokenizer.encode(t, special=True)[0] for t in ("<|im_start|>", "<|im_end|>")}
    marked = before + tokenizer.mark(text) + behind
    ids = tokenizer.encode_marked(marked)
    own = [i for i in tokenizer.encode(before + behind, special=True) if i in control]
    assert [i for i in ids if i in control] == own
    plain = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.unmark(marked) == before + plain + behind
    shown = tokenizer.decode(ids).replace("▁", " ")  # to sentencepiece it is a blank
    assert plain.strip().replace("▁", " ").strip() in shown
    if tokenizer.encode(plain, special=True) == tokenizer.encode(plain):
        assert ids == tokenizer.encode(before + plain + behind, special=True)
    continuation = tokenizer.encode_continuation(ids, marked, tokenizer.mark(more))
    assert not control & set(continuation)
    assert [*ids, *continuation] == tokenizer.encode_marked(marked + tokenizer.mark(more))


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_template(seed):
    source = "".join(random.Random(seed).choices(string.printable + "{}%" * 20, k=300))
    try:
        ChatTemplates({"default": source}, {}, "a.jinja").render([MESSAGES], add_generation_prompt=True)
    except InputError as error:
        assert "a.jinja" in str(error)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 8 * 2**20  # KiB
