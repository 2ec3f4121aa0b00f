"""Chat templates: rendered as transformers does, and bounded whatever they do."""

import datetime
import json
import pathlib
import time

import pytest

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import chat_templates
from ilf_jax.tokenizers.chat_templates import ChatTemplates
from ilf_jax.tokenizers.tokenizer import Tokenizer
from tests.tokenizers.layouts import CHATML, GEMMA, GRANITE, LAYOUTS, LLAMA3, QWEN3, SMOLLM3, save_tokenizer

CASE = pathlib.Path(__file__).parents[1] / "cases/generation_tag/template.jinja"
ASK = [{"role": "user", "content": " What is 'x' <b>?\n"}]
TOLD = [*ASK, {"role": "assistant", "content": "It is é."}]
NO_TIME = datetime.datetime(2021, 3, 4, 23, 59)


def render(source, messages=ASK, tokens=None, **settings):
    settings = {"add_generation_prompt": True, **settings}
    return ChatTemplates({"default": source}, tokens or {}, "a.jinja").render([messages], **settings)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_renders_as_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    for settings in ({}, {"bos_token": None, "pad_token": "<pad>"}):
        folder = tmp_path / str(len(settings))
        ours = Tokenizer.load(save_tokenizer(folder, LAYOUTS[name], **settings))
        theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
        for messages, opens in ((ASK, True), (TOLD, False), ([*TOLD, *ASK], True)):
            for arguments in ({}, {"enable_thinking": False}, {"enable_thinking": True, "controls": {"ü": 1}}):
                expected = theirs.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=opens, **arguments)
                assert ours.render_chat(messages, opens, arguments=arguments) == expected
                assert ours.encode_marked(expected) == theirs(expected, add_special_tokens=False)["input_ids"]
        back = folder / "saved"
        ours.save(back)
        again = Tokenizer.load(f"hf:{back}").render_chat(TOLD, False)
        assert again == theirs.apply_chat_template(TOLD, tokenize=False)
        assert transformers.AutoTokenizer.from_pretrained(str(back)).apply_chat_template(TOLD, tokenize=False) == again


def test_generation_tag_renders_as_without_it():
    source = CASE.read_text()
    without = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for messages, opens in ((ASK, True), (TOLD, False)):
        assert render(source, messages, add_generation_prompt=opens) == render(
            without, messages, add_generation_prompt=opens)
    nested = ("{%- generation -%} {% if true %} {% for m in messages %}{{ loop.index }}{% endfor %}{% endif %} "
              "{% endgeneration %}")
    assert render(nested, TOLD) == " 12 "


def test_the_date_is_the_one_given():
    assert render("{{ strftime_now('%Y-%m-%d %H:%M') }}", now=NO_TIME) == "2021-03-04 23:59"
    assert "04 Mar 2021" in render(LLAMA3, tokens={"bos_token": ""}, now=NO_TIME, arguments={"dated": True})


BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
                    "{% endfor %}{% endfor %}",
    "string": "{{ 'a' * 10**11 }}",
    "string at run time": "{% set n = messages | length %}{{ ('a' * (n * 10**11)) | length }}",
    "list": "{% set x = [0] * 10**11 %}{{ x | length }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power at run time": "{{ ((messages | length + 9) ** (10 ** 9)) % 7 }}",
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "breadth": "{% for a in [[1, 2]] * 2 recursive %}{% for b in range(50) %}{{ loop(([[1]] * 50)) }}{% endfor %}"
               "{% endfor %}",
    "doubling": "{% set n = namespace(s='ab') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "zero": "{{ 1 / 0 }}",
    "format": "{{ '%1000000000000d' % 1 }}",
    "centre": "{{ 'a' | center(10**12) }}",
    "join": "{{ (['a' * 10**6] * 10**5) | join('b' * 10**6) }}",
    "replace": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "batch": "{{ [1] | batch(10**11, 0) | list }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__.os }}",
    "strftime globals": "{{ strftime_now.__globals__['os'] }}",
    "format escape": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "attribute filter": "{{ (messages | attr('__class__')).__mro__ }}",
    "namespace": "{% set n = namespace(_x=1) %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "extends": "{% extends '/etc/passwd' %}",
    "own exception": "{{ raise_exception('no') }}",
    "undefined": "{{ messages[0].missing.more }}",
    "add": "{{ 'a' + 1 }}",
    "changes messages": "{{ messages.append(1) }}",
    "syntax": "{% for %}",
    "unknown tag": "{% nonsense %}",
    "not a number": "{{ 'x' | int(base=99) }}{{ 'a' < 1 }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_explodes_is_refused_by_name(name):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^a\.jinja: the chat template failed: \S"):
        render(BOMBS[name])
    assert time.monotonic() - began < 10
    assert render("{{ messages[0].role }}") == "user"  # and the next template renders


@pytest.fixture(autouse=True)
def half_a_second(monkeypatch):
    """A worker with less patience, for these tests only."""
    monkeypatch.setattr(chat_templates, "SECONDS", 0.5)
    monkeypatch.setattr(chat_templates, "_WORKER", chat_templates._Worker())
    yield
    chat_templates._WORKER.close()


def test_a_name_chooses_among_several_templates(tmp_path):
    listed = [{"name": "plain", "template": CHATML}, {"name": "tool_use", "template": "tools"}]
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path, listed))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: has several chat templates \('plain', 'tool_use'\)"):
        tokenizer.render_chat(ASK)
    with pytest.raises(InputError, match=r"no chat template 'plan'.*did you mean 'plain'"):
        tokenizer.render_chat(ASK, name="plan")
    assert tokenizer.render_chat(ASK, name="plain").startswith("<|im_start|>user\n")
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(f"hf:{tmp_path / 'saved'}").chat.by_name == tokenizer.chat.by_name


def test_templates_in_files_of_their_own(tmp_path):
    uri = save_tokenizer(tmp_path, "ignored")
    (tmp_path / "chat_template.jinja").write_text("one")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/rag.jinja").write_text("two")
    tokenizer = Tokenizer.load(uri)
    assert (tokenizer.render_chat(ASK), tokenizer.render_chat(ASK, name="rag")) == ("one", "two")


@pytest.mark.parametrize("given", [3, [3], [{"name": "a"}], [{"name": "a", "template": 1}], {"a": 1},
                                   [{"name": "a", "template": "x"}, {"name": "a", "template": "y"}]])
def test_a_template_of_a_wrong_type_is_refused(given, tmp_path):
    uri = save_tokenizer(tmp_path, None)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": given}))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: chat_template"):
        Tokenizer.load(uri)


def test_arguments(tmp_path):
    assert "<think>" in render(QWEN3, arguments={"enable_thinking": False})
    assert "/think" in render(SMOLLM3) and "/no_think" in render(SMOLLM3, arguments={"enable_thinking": False})
    assert render(GRANITE, arguments={"documents": [{"text": "x"}]}).startswith("documents")
    assert render(GEMMA, tokens={"bos_token": "<s>"}).startswith("<s><start")
    with pytest.raises(InputError, match="must be JSON values"):
        render(CHATML, arguments={"x": object()})
