"""The user's own templates: defaults for what is missing, clear errors for what is wrong."""

import pytest

from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.tasks.template import TemplateTask

pytestmark = [pytest.mark.fast, pytest.mark.versions]

EXAMPLE = Example(id="a", document="2 + 2")


def test_own_templates():
    task = TemplateTask(policy="Q: {document}\nA:", refine="{document} | {draft} | {feedback}", critic="Why {draft}?",
                        judge=[["{refinement} good?", "yes", "no"]], compare="{first} or {second}?", stop=("END",))
    assert task.policy_prompt(EXAMPLE).text == "Q: 2 + 2\nA:"
    assert task.refine_prompt(EXAMPLE, "5", "less").text == "2 + 2 | 5 | less"
    assert task.critic_prompt(EXAMPLE, "5").text == "Why 5?"
    (question,) = task.judge_questions(EXAMPLE, "5", "less", "4")
    assert (question.prompt.text, question.answers) == ("4 good?", ("yes", "no"))
    assert task.compare_question(EXAMPLE, "4", "5").prompt.text == "4 or 5?"


def test_general_wording_for_the_rest():
    task = TemplateTask(policy="{document}")
    refine = task.refine_prompt(EXAMPLE, "5", "one less").text
    assert all(part in refine for part in ("2 + 2", "5", "one less"))
    assert "Title" not in refine
    questions = task.judge_questions(EXAMPLE, "5", "one less", "4")
    assert [q.answers for q in questions] == [("Yes", "No")] * 3 + [("True", "False")] * 2
    assert len({q.prompt.text for q in questions}) == 5
    assert "5" in task.critic_prompt(EXAMPLE, "5").text
    assert "B: 5" in task.compare_question(EXAMPLE, "4", "5").prompt.text


@pytest.mark.parametrize(("stop", "raw", "clean"), [
    (("\n",), " a  b\nc", "a b"),
    (("END",), "a\n  b END c", "a\n  b"),
    ((";", "\n"), "x; y", "x"),
    ((), "a\n\n b\n", "a\n\n b"),
])
def test_postprocess_follows_stop(stop, raw, clean):
    assert TemplateTask(policy="{document}", stop=stop).postprocess(raw) == clean


@pytest.mark.parametrize(("given", "message"), [
    ({"policy": "no gap"}, r"config\.template\.policy: the template lacks \{document\}"),
    ({"policy": ""}, r"config\.template\.policy: the template is empty"),
    ({"policy": 3}, r"config\.template\.policy: int given"),
    ({"policy": "{document!r}"}, r"config\.template\.policy: gaps must be written plainly"),
    ({"refine": "{document} {draft}"}, r"config\.template\.refine: the template lacks \{feedback\}"),
    ({"critic": "{document}"}, r"config\.template\.critic: the template lacks \{draft\}"),
    ({"compare": "{first}"}, r"config\.template\.compare: the template lacks \{second\}"),
    ({"judge": (("{draft}", "Yes", "No"),)}, r"config\.template\.judge\[0\]: the template lacks \{refinement\}"),
    ({"judge": (("{refinement}", "Yes", "Yes"),)}, r"config\.template\.judge\[0\]: answers"),
    ({"judge": ("{refinement}", "Yes", "No")}, r"config\.template\.judge\[0\]: must be three strings"),
    ({"judge": "{refinement}"}, r"config\.template\.judge: must be a tuple"),
    ({"stop": "\n"}, r"config\.template\.stop"),
    ({"stop": ("",)}, r"config\.template\.stop"),
])
def test_errors_name_the_key(given, message):
    with pytest.raises(InputError, match=message):
        TemplateTask(**{"policy": "{document}", **given})


def test_doubled_braces_stand_for_themselves():
    task = TemplateTask(policy="{{document}} is {document}.")
    prompt = task.policy_prompt(Example(id="1", document="this"))
    assert (prompt.before, prompt.document, prompt.after) == ("{document} is ", "this", ".")
