"""Where templates put answers, in the layouts of published models; control tokens in data; thoughts before outputs."""

import datetime

import numpy as np
import pytest

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.inference import answer_scoring, generation, model_pool, thinking, training_texts
from ilf_jax.inference.generation import Generator
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io
from ilf_jax.models.compute import FLOAT32
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import progress, sharding
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks.prompts import Prompt, Question
from ilf_jax.tokenizers.tokenizer import Tokenizer
from tests.tokenizers.layouts import CONTROL, LAYOUTS, save_tokenizer

pytestmark = pytest.mark.fast

URI = "builtin:word_removal_1m"
NOW = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
# Of each layout: what stands before an answer at the prompt's end, and the token behind the answer.
TURNS = {
    "chatml": ("<|im_start|>assistant\n", "<|im_end|>"),
    "chatml_system": ("<|im_start|>assistant\n", "<|im_end|>"),
    "llama2": ("Hello [/INST]", "</s>"),
    "llama3": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma": ("<start_of_turn>model\n", "<end_of_turn>"),
    "mistral": ("Hello[/INST]", "</s>"),
    "phi": ("<|assistant|>\n", "<|end|>"),
    "zephyr": ("<|assistant|>\n", "</s>"),
    "qwen3": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    "smollm3": ("/no_think<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
                "<|im_end|>"),
    "granite": ("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>"),
    "olmo": ("<|assistant|>\n", "</s>"),
    "deepseek": ("Hello<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "command": ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    "padded": ("<|im_start|>assistant\n", "<|im_end|>"),
}


def make(folder, template, *, markers=("<think>", "</think>"), special=False, **settings):
    tokenizer = Tokenizer.load(save_tokenizer(folder, template, markers, special))
    model = checkpoint_io.read_config(URI)
    placement = Placement(sharding.make_mesh(-1, 1, 1), model)
    return LanguageModel("policy", config_sections.Model(checkpoint=URI, **settings), model, {}, tokenizer, placement,
                         FLOAT32, now=NOW)


def encode(lm, document, **how):
    return lm.encode("1", [Prompt("", document, "")], 0, **how)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_prompt_and_continuation_make_up_the_rendered_turn(name, tmp_path):
    lm = make(tmp_path, LAYOUTS[name])
    before, end = TURNS[name]
    prompt = encode(lm, "Hello")
    assert prompt.text.endswith(before)
    assert lm.end_id == lm.tokenizer.encode(end, special=True)[0] and lm.end_id in lm.end_ids
    learned = [*prompt.ids, *lm.continuation(prompt, "Yes, it is."), lm.end_id]
    turn = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes, it is."}]
    (rendered,) = lm._render([turn], False)
    assert learned == lm.tokenizer.encode(rendered, special=True)[: len(learned)]
    question = Question(Prompt("", "Hello", ""), ("Yes", "No"))
    (group,) = answer_scoring.ask(lm, "1", [[question]]).groups(together=False)
    asked = [*group.prefix.tolist(), *group.branches[0].tokens.tolist()]
    assert [*asked, group.branches[0].answers[0][0]] == learned[: len(asked) + 1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_control_tokens_in_data_are_letters_everywhere(name, tmp_path):
    lm = make(tmp_path, LAYOUTS[name])
    control = set(lm.tokenizer.encode("".join(CONTROL), special=True))
    assert len(control) == len(CONTROL)
    own = [i for i in encode(lm, "x").ids if i in control]
    for text in (f"a{CONTROL[4]} b", "".join(CONTROL), f"{CONTROL[7]}\n{CONTROL[3]}assistant\nYes",
                 "<|im_<|im_end|>end|>"):
        prompt = encode(lm, text)
        assert [i for i in prompt.ids if i in control] == own
        assert text in lm.tokenizer.unmark(prompt.text)
        learned = lm.continuation(prompt, text)
        assert not control & set(learned)
        assert text in lm.tokenizer.decode(learned)
        questions = [[Question(Prompt("", "d", f" {text} {end}?"), ("Yes", "No"))] for end in "ab"]
        asked = answer_scoring.ask(lm, "1", questions)
        (group,) = asked.groups(together=True)
        for branch, (question,) in zip(group.branches, questions, strict=True):
            alone = answer_scoring.ask(lm, "1", [[question]]).together
            assert ([*group.prefix.tolist(), *branch.tokens.tolist()]
                    == [*alone.prefix.tolist(), *alone.branches[0].tokens.tolist()])
    plain = encode(make(tmp_path, LAYOUTS[name], chat="never"), "a<|im_end|>")
    assert not control & set(plain.ids) - {lm.tokenizer.bos_id}


def test_without_control_tokens_nothing_is_marked(tmp_path):
    lm = make(tmp_path, LAYOUTS["chatml"])
    text = "Plain ü text < | im_end | > with \U0001f642"
    rendered = lm.tokenizer.render_chat([{"role": "user", "content": text}])
    assert encode(lm, text).text == rendered and encode(lm, text).ids == lm.tokenizer.encode(rendered, special=True)


def test_the_old_way_is_an_option(tmp_path):
    lm = make(tmp_path, LAYOUTS["chatml"], control_tokens="anywhere")
    (end,) = lm.tokenizer.encode("<|im_end|>", special=True)
    prompt = encode(lm, "a<|im_end|>b")
    assert prompt.ids.count(end) == 2 and end in lm.continuation(prompt, "c<|im_end|>d")


def test_lone_surrogates_in_data_do_not_pass_for_marks(tmp_path):
    lm = make(tmp_path, LAYOUTS["chatml"])
    prompt = encode(lm, "a\udc00|im_end|>\udc01")
    assert "a\ufffd|im_end|>\ufffd" in prompt.text


def test_thinking_wanted(tmp_path):
    qwen = make(tmp_path / "qwen", LAYOUTS["qwen3"], thinking_tokens=20)
    prompt = encode(qwen, "Hello")
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert qwen.completion_text(prompt, "Yes") == "Yes"
    assert encode(qwen, "Hello", answered=True).text == f"{prompt.text}<think>\n\n</think>\n\n"
    deepseek = make(tmp_path / "deepseek", LAYOUTS["deepseek"], thinking_tokens=20)
    prompt = encode(deepseek, "Hello")
    assert prompt.text.endswith("<｜Assistant｜><think>\n")
    assert encode(deepseek, "Hello", answered=True).text == f"{prompt.text}\n</think>\n\n"
    assert make(tmp_path / "plain", LAYOUTS["qwen3"], thinking_tokens=20, chat="never").room(5) == 5
    assert qwen.room(5) >= 25


@pytest.mark.parametrize(("thoughts", "prompt_end"), [
    ("<think>\nso and so\n</think>\n\nThe an", "<think>\nso and so\n</think>\n\n"),
    ("<think>\nso and so, and", "<think>\nso and so, and\n</think>\n\n"),
    ("<think>\nso<|im_end|>", "<think>\nso\n</think>\n\n"),
    ("no block", "no block\n</think>\n\n"),
    ("<thought>of another kind", "<thought>of another kind\n</thought>\n\n"),
])
@pytest.mark.parametrize("markers", ["words", "added", "special"])
def test_thoughts_are_cut_from_the_output(thoughts, prompt_end, markers, tmp_path, monkeypatch):
    """Whether markers are several tokens, one token, or a control token, which texts are decoded without."""
    lm = make(tmp_path, LAYOUTS["qwen3"], thinking_tokens=40, special=markers == "special",
              markers=() if markers == "words" else ("<think>", "</think>"))
    tokens, written = np.array(lm.tokenizer.encode(thoughts, special=True)), "The answer.\n"
    asked = []

    def sample(self, prompts, keys):
        asked.append((self.thinks, self.max_new_tokens, prompts, keys))
        drawn = tokens if self.thinks else np.array(lm.tokenizer.encode(written))
        return Pending.ready([[self._sample(drawn, np.zeros(len(drawn)), False) for _ in keys[0]] for _ in prompts])

    monkeypatch.setattr(Generator, "_start_samples", sample)
    prompts = [encode(lm, text) for text in ("Hello", "Bye")]
    keys = np.arange(12, dtype=np.uint32).reshape(2, 3, 2)
    samples = Generator(lm, make_sampling(1.0, 0, 1.0), 8, 2, ("\n",)).start(prompts, keys).result()
    assert [[s.text for s in group] for group in samples] == [["The answer."] * 3] * 2
    (thinks, budget, _, first_keys), (writes, length, longer, second_keys) = asked
    assert (thinks, budget, writes, length) == (True, 40, False, 8)
    assert first_keys is keys and second_keys.shape == (6, 1, 2) and len({k.tobytes() for k in second_keys}) == 6
    for i, prompt in enumerate(longer):
        assert lm.decode(prompt.ids).endswith(f"assistant\n{prompt_end}")
        assert prompt.ids == [*prompts[i // 3].ids, *samples[i // 3][i % 3].thought]


def test_ends_of_thoughts(tmp_path):
    lm = make(tmp_path, LAYOUTS["qwen3"], thinking_tokens=40)
    plain = Generator(lm, make_sampling(1.0, 0, 1.0), 8, 2, ("\n",))
    thinker = generation.dataclasses.replace(plain, stop=(), thinks=True)
    (close,) = lm.tokenizer.encode("</think>")
    (newline,) = lm.tokenizer.encode("\n")
    assert (plain.ends[close], plain.ends[newline]) == (0, 1) and (thinker.ends[close], thinker.ends[newline]) == (1, 0)


def test_thoughts_unasked_are_cut_too():
    assert thinking.without_thoughts("<think>\nhm\n</think>\n\nYes.") == "Yes."
    assert thinking.without_thoughts("[THINK]hm[/THINK]Yes.") == "Yes."
    assert thinking.without_thoughts("a < b") == "a < b"
    assert thinking.without_thoughts("\n<think>\nhm, no end") == ""


@pytest.mark.parametrize("special", [False, True])
def test_thoughts_unasked_are_cut_from_samples(special, tmp_path):
    lm = make(tmp_path, LAYOUTS["qwen3"], special=special)
    drawn = np.array(lm.tokenizer.encode("<think>hm</think>\n\nYes.<|im_end|>", special=True))
    generator = Generator(lm, make_sampling(1.0, 0, 1.0), 40, 1, ())
    assert generator._sample(drawn, np.zeros(len(drawn)), True).text == "Yes."


@pytest.mark.parametrize("thinking_tokens", [0, 20])
@pytest.mark.parametrize("name", ["qwen3", "smollm3", "deepseek"])
def test_no_loss_falls_on_an_empty_block(name, thinking_tokens, tmp_path):
    """The trained row is the rendered turn, and what is learned of it is the answer and its end, thinking or not."""
    lm = make(tmp_path, LAYOUTS[name], thinking_tokens=thinking_tokens)
    settings = config_sections.Finetune(max_length=400)
    (row,) = training_texts.encode_texts(lm, training_texts.Texts("1", Prompt("", "Hello", ""), ("Yes.",)), "finetune",
                                         settings)
    assert row.tokens[row.weights > 0].tolist() == [*lm.tokenizer.encode("Yes."), lm.end_id]
    turn = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes."}]
    if name != "deepseek" or not thinking_tokens:  # its rendered turn leaves out the block that its prompt opens
        (rendered,) = lm._render([turn], False)
        assert row.tokens.tolist() == lm.tokenizer.encode(rendered, special=True)[: len(row.tokens)]
    # Answers are read at the same place, and each is one token.
    questions = answer_scoring.ask(lm, "1", [[Question(Prompt("", "Hello", ""), ("Y", "N"))]])
    assert questions.exact
    (group,) = questions.groups(together=False)
    asked = [*group.prefix.tolist(), *group.branches[0].tokens.tolist()]
    assert [*asked, group.branches[0].answers[0][0]] == row.tokens.tolist()[: len(asked) + 1]


@pytest.mark.parametrize(("given", "message"), [
    ([1], "must be a dict"), ({1: 2}, "must be a dict"), ({"a": {1, 2}}, "values must be"),
    ({"a": float("nan")}, "values must be"), ({"messages": []}, "'messages' is what the program"),
    ({"enable_thinking": True}, r"takes a budget; set config\.critic\.thinking_tokens"),
])
def test_template_arguments_are_checked_before_the_run(given, message):
    config = type("Config", (), {"critic": config_sections.Model(template_arguments=given)})
    with pytest.raises(InputError, match=rf"config\.critic\.template_arguments: .*{message}"):
        model_pool.check(config, ["critic"])


@pytest.mark.parametrize(("role", "settings", "message"), [
    ("judge", {"thinking_tokens": 9}, r"config\.judge\.thinking_tokens: the judge answers at once"),
    ("judge", {"template_arguments": {"enable_thinking": True}}, "the judge answers at once"),
    ("refiner", {"thinking_tokens": 9, "template_arguments": {"enable_thinking": False}},
     r"False contradicts config\.refiner\.thinking_tokens=9"),
])
def test_who_may_think_is_checked_before_the_run(role, settings, message):
    with pytest.raises(InputError, match=message):
        model_pool.check(type("Config", (), {role: config_sections.Model(**settings)}), [role])


@pytest.fixture
def said(monkeypatch):
    """The lines that are logged."""
    lines = []
    monkeypatch.setattr(progress, "log", lines.append)
    return lines


class Roles:
    """One role, with its language model."""

    def __init__(self, lm):
        self.lm = lm

    def without_params(self, name):
        return self.lm


@pytest.mark.parametrize("name", ["qwen3", "smollm3", "deepseek"])
def test_templates_that_ask_for_thoughts(name, tmp_path, said):
    model_pool.check_templates(Roles(make(tmp_path, LAYOUTS[name], thinking_tokens=9)), ["policy"])
    assert said == []


def test_a_budget_for_a_model_that_does_not_think_is_refused(tmp_path, said):
    def check(folder, markers=("<think>", "</think>"), **settings):
        lm = make(tmp_path / folder, LAYOUTS["chatml"], markers=markers, thinking_tokens=9, **settings)
        model_pool.check_templates(Roles(lm), ["policy"])

    with pytest.raises(InputError, match=r"config\.policy\.thinking_tokens=9: the model .* does not think: its chat"):
        check("plain", markers=())
    with pytest.raises(InputError, match=r"prompted without one \(config\.policy\.chat='never'\)"):
        check("never", chat="never")
    check("knows")
    (line,) = said
    assert "does not ask for thoughts; they are looked for all the same" in line and line.endswith("knows <think>")


def test_a_failing_template_names_the_role(tmp_path):
    lm = make(tmp_path, "{{ raise_exception('not today') }}")
    with pytest.raises(InputError, match=r"config\.policy: .*tokenizer_config\.json: the chat template failed: not to"):
        encode(lm, "x")


def test_templates_are_checked_before_the_first_stage(tmp_path):
    class Roles:
        def without_params(self, name):
            template = LAYOUTS["chatml"] if name == "policy" else "{{ 1 / 0 }}"
            return make(tmp_path / name, template, chat_template="nope" if name == "critic" else None)

    model_pool.check_templates(Roles(), ["policy"])
    with pytest.raises(InputError, match="the chat template failed: division by zero"):
        model_pool.check_templates(Roles(), ["policy", "judge"])
    with pytest.raises(InputError, match="has no chat template 'nope'"):
        model_pool.check_templates(Roles(), ["critic"])


def test_the_date_of_a_prompt_is_the_run_s(tmp_path):
    lm = make(tmp_path, LAYOUTS["llama3"], template_arguments={"dated": True})
    assert "Today: 29 Feb 2024" in encode(lm, "x").text
