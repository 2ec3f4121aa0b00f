"""Templates: gaps, lines left out, braces that are text."""

import pytest

from ilf_jax.errors import InputError
from ilf_jax.tasks import prompts

pytestmark = pytest.mark.fast


def test_fill_splits_at_the_document():
    prompt = prompts.fill("Title: {title}\n{document}\nTL;DR:", {"title": "Rain", "document": "It rained."})
    assert prompt == prompts.Prompt("Title: Rain\n", "It rained.", "\nTL;DR:")
    assert prompt.text == "Title: Rain\nIt rained.\nTL;DR:"


@pytest.mark.parametrize("values", [{"title": ""}, {}])
def test_a_line_with_an_empty_gap_is_left_out(values):
    prompt = prompts.fill("Title: {title}\n{document}\nTL;DR:", {"document": "It rained.", **values})
    assert prompt.text == "It rained.\nTL;DR:"


def test_braces_in_values_survive():
    document = "f = {title} and {{x}} or {0} }{"
    prompt = prompts.fill("{title}\n{document}\nnote: {feedback}",
                          {"title": "{document}", "document": document, "feedback": "{nope} {"})
    assert prompt.document == document
    assert prompt.text == "{document}\n" + document + "\nnote: {nope} {"


def test_literal_braces_in_a_template():
    template = 'JSON like {{"a": 1}}\n{document}'
    prompts.check_template("here", template, ("document",))
    assert prompts.fill(template, {"document": "d"}).text == 'JSON like {"a": 1}\nd'


def test_a_template_without_document():
    assert prompts.fill("Say {draft}", {"draft": "hello"}) == prompts.Prompt("Say hello", "", "")


@pytest.mark.parametrize(("template", "message"), [
    ("{documents}", r"config\.x: unknown gap \{documents\}; allowed are \{title\}, \{document\}"),
    ("{document} {}", r"config\.x: unknown gap \{\}"),
    ("{title}", r"config\.x: the template lacks \{document\}"),
    ("{document", r"config\.x: not a template"),
    ("{document} }", r"config\.x: not a template"),
])
def test_check_template_names_what_is_wrong(template, message):
    with pytest.raises(InputError, match=message):
        prompts.check_template("config.x", template, ("document",))
