"""An export answers in transformers as the policy does in a run: the same token ids, the same greedy text."""

import importlib.util
import json
import re
import stat

import pytest
from conftest import import_program

import ilf_jax
from ilf_jax.export import chat_template
from ilf_jax.records import Example
from ilf_jax.tasks import make_task

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

export = import_program("export")

pytestmark = pytest.mark.usefixtures("quick_compiles")

DOCUMENTS = (
    "Ada the baker", "Bo \"the\" tailor's {name} and {{braces}}", "Line one\n\n- line two\t{% if %} {# x #}",
    "Ünï 🙂 世界", "  blanks  ", "<b>&amp;</b> | $x$", "",
)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """(folder of a run, its export): a policy that writes sentences, from the model that ships with the package."""
    c = ilf_jax.base_config()
    c.task, c.data.source = "word_removal", "builtin:word_removal"
    c.data.eval_source = "builtin:word_removal"
    c.data.train_size, c.data.eval_size = 4, 3
    c.policy.checkpoint = "builtin:word_removal_1m"
    c.feedback.source, c.refine.num_candidates = "oracle", 2
    for section in (c.draft, c.feedback, c.refine, c.evaluate):
        section.max_new_tokens, section.batch_size = 24, 4
    c.evaluate.temperature = 0.0
    c.finetune.batch_size, c.finetune.learning_rate = 2, 1e-4
    folder = tmp_path_factory.mktemp("chat") / "run"
    ilf_jax.run(c, folder)
    out = folder.parent / "exported"
    export.export(folder, None, out)
    return folder, out


def own_ids(policy, documents):
    lm = policy.roles.without_params("policy")
    return [lm.encode_whole("", policy.task.policy_prompt(Example("", text))).ids for text in documents]


def test_token_ids_and_greedy_text(trained_run):
    folder, out = trained_run
    policy = ilf_jax.load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    chats = [[{"role": "user", "content": text}] for text in DOCUMENTS]
    theirs = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    assert theirs == own_ids(policy, DOCUMENTS)

    names = ["Ada the baker", "Bo the tailor", "Ünï the 🙂", "Cy \"{the}\" clerk"]
    generate = transformers.pipeline("text-generation", model=str(out))
    answers = [generate([{"role": "user", "content": name}])[0]["generated_text"][-1]["content"] for name in names]
    ours = [texts[0] for texts in policy.generate(names)]
    assert [answer.strip() for answer in answers] == ours and all(len(text) > 12 for text in ours)
