"""The summaries task: prompts with every part in its place, and post-processing."""

import pytest

from ilf_jax.records import Example
from ilf_jax.tasks import prompts
from ilf_jax.tasks.summarize import Summarize

pytestmark = pytest.mark.fast

TASK = Summarize()
EXAMPLE = Example(id="a", document="The cat sat on the {mat}.\nThen it left.", title="A cat")
UNTITLED = Example(id="b", document="Two dogs ran.")


def in_order(text, *parts):
    places = [text.index(part) for part in parts]
    return places == sorted(places)


def test_policy_prompt():
    assert TASK.policy_prompt(EXAMPLE).text == f"Title: A cat\n\n{EXAMPLE.document}\n\nTL;DR:"
    assert "Title" not in TASK.policy_prompt(UNTITLED).text
    assert TASK.policy_prompt(EXAMPLE).document == EXAMPLE.document


def test_refine_prompt():
    text = TASK.refine_prompt(EXAMPLE, "A cat sat.", "Say that it left.").text
    assert in_order(text, "one or two sentences", "A cat\n", EXAMPLE.document, "A cat sat.", "Say that it left.")
    assert text.endswith("Improved TL;DR:")
    assert "Title" not in TASK.refine_prompt(UNTITLED, "Dogs.", "How many?").text


def test_critic_and_compare():
    assert in_order(TASK.critic_prompt(EXAMPLE, "A cat sat.").text, EXAMPLE.document, "A cat sat.")
    question = TASK.compare_question(EXAMPLE, "one", "two")
    assert question.answers == ("A", "B")
    assert in_order(question.prompt.text, EXAMPLE.document, "A: one", "B: two")


def test_judge_is_an_ensemble_of_five_that_shares_its_prefix():
    first, second = (TASK.judge_questions(EXAMPLE, "A cat sat.", "Say that it left.", r) for r in ("XX", "YY"))
    assert [q.answers for q in first] == [("Yes", "No")] * 3 + [("True", "False")] * 2
    assert len({q.prompt.text for q in first}) == 5
    for a, b in zip(first, second, strict=True):
        assert in_order(a.prompt.text, EXAMPLE.document, "A cat sat.", "Say that it left.", "XX")
        shared, _, rest = a.prompt.text.partition("XX")
        assert b.prompt.text == shared + "YY" + rest
        assert len(rest) < len(shared)


def test_no_prompt_ends_in_a_blank():
    # A trailing blank would split tokens where the model never saw them split.
    for template in (TASK.prompts.policy, TASK.prompts.refine, TASK.prompts.critic, TASK.prompts.compare,
                     *(judge[0] for judge in TASK.prompts.judge)):
        prompts.check_template("summarize", template, ("document",))
        assert template == template.strip()


@pytest.mark.parametrize(("raw", "clean"), [
    ("  - A cat sat.", "A cat sat."),
    ("\n\n_A cat sat.\nIt also", "A cat sat."),
    ("A  cat \t sat", "A cat sat"),
    ("A cat sat. It then wen", "A cat sat."),
    ("Did it go? Yes! And wh", "Did it go? Yes!"),
    ("no end mark here", "no end mark here"),
    ("Été à Paris. Pu", "Été à Paris."),
    ("... \n", ""),
    ("", ""),
])
def test_postprocess(raw, clean):
    assert TASK.postprocess(raw) == clean
    assert TASK.postprocess(clean) == clean


def test_empty_candidates_are_unusable():
    assert not TASK.is_usable(EXAMPLE, TASK.postprocess(" ?! "))
    assert TASK.is_usable(EXAMPLE, "A cat.")
