"""The policy's prompt as a chat template: in transformers it gives the policy's own token ids."""

import io
import json
import pathlib

import pytest
from conftest import make_tiny_config

from ilf_jax import config as config_lib
from ilf_jax import tasks
from ilf_jax.export import chat_template, hugging_face
from ilf_jax.export.exported import Exported
from ilf_jax.inference import model_pool
from ilf_jax.inference.policy_outputs import policy_prompt
from ilf_jax.models.checkpoint_uris import ASSETS
from ilf_jax.policy.finished import Finished
from ilf_jax.records import Example
from ilf_jax.runtime import sharding
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.word_removal import WordRemoval
from ilf_jax.tokenizers.chat_templates import ChatTemplates
from ilf_jax.tokenizers.tokenizer import Tokenizer

DOCUMENTS = (
    "Ada the baker", "Bo \"the\" tailor's {name} and {{braces}}", "Line one\n\n- line two\t{% if %} {# x #} \\n",
    "Ünï 🙂 世界", "  blanks \n", "<b>&amp;</b> | $x$", "",
)
CHATML = """\
{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
TRIMS = CHATML.replace("message['content']", "(message['content'] | trim)").replace("{% if m", "{{ bos_token }}{% if m")
OPENS_THOUGHTS = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
SHOUTS = CHATML.replace("message['content']", "(message['content'] | upper)")
BASES = {"plain": "", "chatml": CHATML, "trims": TRIMS, "opens_thoughts": OPENS_THOUGHTS}
TEMPLATES = {
    "ends_in_document": "Summarise this:\n{document}",
    "braces": "{{literal}} {document} \"{{% x %}}\" \\n {document}!\n",
    "title": "Title: {title}\n\n{document}\n\nTL;DR:", "no_document_line": "Say something.\n\n{document}\n",
}


def make_folder(folder, template):
    """A checkpoint without weights, with a few control tokens and a chat template."""
    import tokenizers

    folder.mkdir()
    fast = tokenizers.Tokenizer.from_file(str(ASSETS / "word_removal_1m/tokenizer.json"))
    fast.add_special_tokens(["<|im_start|>", "<|im_end|>", "<s>", "<think>", "</think>"])
    fast.save(str(folder / "tokenizer.json"))
    config = json.loads((ASSETS / "word_removal_1m/config.json").read_text()) | {"vocab_size": 1100}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"eos_token": "<|end|>", "bos_token": "<s>", **({"chat_template": template} if template else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def exported_of(checkpoint, task="summarize", tokenizer=None, **changes):
    """What an export of a policy before training is made of; nothing is loaded but its tokenizer."""
    c = make_tiny_config()
    c.task, c.policy.checkpoint, c.policy.tokenizer = task, checkpoint, tokenizer
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    config = config_lib.read(c)
    roles = model_pool.Roles(config, model_pool.ModelPool(sharding.make_mesh(-1, 1, 1), 0), pathlib.Path("none"), None)
    lm, made = roles.without_params("policy"), tasks.make_task(config)
    prompt, reason = chat_template.make(lm, made, config, False)
    where = pathlib.Path("none")
    return Exported(Finished(config, where, where, 0), roles, lm, made, prompt, reason)


def own_ids(exported, documents, title=""):
    reads = policy_prompt(exported.task, exported.config, False)
    return [exported.lm.encode_whole("", reads(Example("", text, title))).ids for text in documents]


def their_ids(folder, documents, sanitize=False, **more):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer.apply_chat_template([{"role": "user", "content": text, **more}], add_generation_prompt=True,
                                          return_dict=False, sanitize_control_tokens=sanitize) for text in documents]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_token_ids_are_those_of_the_policy(tmp_path, base, template):
    checkpoint = make_folder(tmp_path / "base", BASES[base])
    exported = exported_of(f"hf:{checkpoint}", "template", **{"template.policy": TEMPLATES[template]})
    assert exported.prompt is not None, exported.why_no_prompt
    hugging_face.write_tokenizer(exported, tmp_path / "out")
    assert their_ids(tmp_path / "out", DOCUMENTS) == own_ids(exported, DOCUMENTS)
    control = ["Ada <|im_end|>\n<|im_start|>user <|end|>"]
    assert their_ids(tmp_path / "out", control, sanitize=True) == own_ids(exported, control)
    with_title = own_ids(exported, DOCUMENTS, "On \"tea\"")
    assert their_ids(tmp_path / "out", DOCUMENTS, title="On \"tea\"") == with_title
    assert (with_title != own_ids(exported, DOCUMENTS)) == (template == "title")


def sentencepiece_folder(folder, legacy):
    import sentencepiece

    out = io.BytesIO()
    corpus = ["the baker is a gem and a hero", "TL;DR: it is a marvel", "Title: on tea"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, vocab_size=300, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False)
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    config = json.loads((ASSETS / "word_removal_1m/config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer", "legacy": legacy, "bos_token": "<s>", "eos_token": "</s>"}))
    return folder


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tokenizer_with_bos_and_a_space_in_front(tmp_path, legacy):
    exported = exported_of(f"hf:{sentencepiece_folder(tmp_path / 'base', legacy)}")
    assert exported.prompt is not None, exported.why_no_prompt
    hugging_face.write_tokenizer(exported, tmp_path / "out")
    ours = own_ids(exported, DOCUMENTS)
    assert their_ids(tmp_path / "out", DOCUMENTS) == ours and {row[0] for row in ours} == {exported.lm.tokenizer.bos_id}


def test_the_next_run_reads_the_models_own_template(tmp_path):
    """It puts its own prompt around documents; the export's would be a second one."""
    checkpoint = make_folder(tmp_path / "base", CHATML)
    exported = exported_of(f"hf:{checkpoint}")
    hugging_face.write_tokenizer(exported, tmp_path / "out")
    (tmp_path / "out/config.json").write_text((checkpoint / "config.json").read_text())
    again = exported_of(f"hf:{tmp_path / 'out'}")
    assert own_ids(again, DOCUMENTS) == own_ids(exported, DOCUMENTS)
    assert again.lm.tokenizer.chat.by_name == {"default": CHATML}
    assert exported.prompt is not None and again.prompt is not None
    assert again.prompt.source == exported.prompt.source


def test_stop_strings_end_a_generation_but_not_of_the_next_run(tmp_path):
    exported = exported_of(f"hf:{make_folder(tmp_path / 'base', '')}")
    hugging_face.write_tokenizer(exported, tmp_path / "out")
    settings = json.loads((tmp_path / "out/generation_config.json").read_text())
    newline = exported.lm.tokenizer.encode("\n")
    assert set(newline) < set(settings["eos_token_id"]) and settings["eos_token_id"][0] == exported.lm.end_id
    assert settings["pad_token_id"] == exported.lm.end_id and settings["max_new_tokens"] == 8
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "top_k": 0}
    assert {name: settings[name] for name in sampling} == sampling
    (tmp_path / "out/config.json").write_text((tmp_path / "base/config.json").read_text())
    assert Tokenizer.load(f"hf:{tmp_path / 'out'}").stop_ids == exported.lm.tokenizer.stop_ids


def test_an_answer_stands_where_training_put_it(tmp_path):
    for base in ("plain", "chatml"):
        exported = exported_of(f"hf:{make_folder(tmp_path / base, BASES[base])}")
        assert exported.prompt is not None
        lm, document = exported.lm, "Ada the baker"
        chat = [{"role": "user", "content": document}, {"role": "assistant", "content": "A gem."}]
        (text,) = ChatTemplates({"default": exported.prompt.source}, {}, "test").render(
            [chat], add_generation_prompt=False)
        prompt = lm.encode_whole("", exported.task.policy_prompt(Example("", document)))
        assert lm.tokenizer.encode(text, special=True) == [*prompt.ids, *lm.continuation(prompt, "A gem."), lm.end_id]


class Numbered(WordRemoval):
    """Writes its prompt by a program."""

    name = "numbered"

    def policy_prompt(self, example):
        return Prompt("", f"{len(example.document)}: {example.document}", "\nText:")


def test_what_no_template_can_say(tmp_path, caplog):
    exported = exported_of(f"hf:{make_folder(tmp_path / 'base', CHATML)}", f"file:{__file__}:Numbered")
    assert exported.prompt is None
    assert exported.why_no_prompt == "the task Numbered writes its prompt by a Python method, policy_prompt"
    hugging_face.write_tokenizer(exported, tmp_path / "out")
    assert Tokenizer.load(f"hf:{tmp_path / 'out'}").chat.by_name == {"default": CHATML}  # as it was

    exported = exported_of(f"hf:{make_folder(tmp_path / 'shouts', SHOUTS)}")
    assert exported.prompt is None and "its own chat template" in exported.why_no_prompt


def test_the_favourable_comment_is_part_of_the_prompt(tmp_path):
    exported = exported_of(f"hf:{make_folder(tmp_path / 'base', '')}", **{"finetune.objective": "fcp"})
    prompt, _ = chat_template.make(exported.lm, exported.task, exported.config, True)
    assert prompt is not None and exported.prompt is not None
    assert exported.task.favourable in prompt.source and exported.task.favourable not in exported.prompt.source
