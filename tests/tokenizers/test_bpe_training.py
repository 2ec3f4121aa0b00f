"""What the tokens of a trained tokenizer span: words, or what the task says."""

import json

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.dry_run import dry_run
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io
from ilf_jax.tasks import summarize, word_removal
from ilf_jax.tasks.template import TemplateTask
from ilf_jax.tokenizers import bpe_training
from ilf_jax.tokenizers.bpe_training import WORDS, train_bpe
from ilf_jax.tokenizers.tokenizer import Tokenizer

pytestmark = [pytest.mark.fast, pytest.mark.versions]

TEXTS = ["she is a fool and an oaf", "he is a fool, an oaf"] * 20


def pieces(folder, task):
    train_bpe(TEXTS, 400, folder, task.token_units)
    tokenizer = Tokenizer.load(f"hf:{folder}")
    return [tokenizer.decode([i]) for i in tokenizer.encode(" is a fool and an oaf")]


@pytest.mark.parametrize("task", [summarize.Summarize(), TemplateTask(policy="{document}")])
def test_tokens_are_words(tmp_path, task):
    assert pieces(tmp_path, task) == [" is", " a", " fool", " and", " an", " oaf"]


def test_a_task_joins_articles_and_nouns(tmp_path):
    assert pieces(tmp_path, word_removal.WordRemoval()) == [" is", " a fool", " and", " an oaf"]


def test_own_units(tmp_path):
    assert pieces(tmp_path, TemplateTask(policy="{document}", token_units=r" is a \w+|.")) == [
        " is a fool", *" and an oaf"]
    with pytest.raises(InputError, match=r"config\.template\.token_units: '\(' is not a regular expression"):
        TemplateTask(policy="{document}", token_units="(")


def test_the_shipped_tokenizer_has_its_task_s_units():
    _, folder = checkpoint_io.resolve("builtin:word_removal_1m")
    with open(f"{folder}/tokenizer.json", encoding="utf-8") as file:
        steps = json.load(file)["pre_tokenizer"]["pretokenizers"]
    assert steps[0]["pattern"] == {"Regex": word_removal.TOKEN_UNITS}
    assert word_removal.TOKEN_UNITS.endswith(WORDS)


@pytest.mark.parametrize(("task", "units"), [("word_removal", word_removal.TOKEN_UNITS), ("template", "")])
def test_a_run_passes_its_task_s_units(tmp_path, monkeypatch, task, units):
    passed = []

    def record(texts, vocab_size, folder, units):
        passed.append(units)
        raise RuntimeError("enough")

    monkeypatch.setattr(bpe_training, "train_bpe", record)
    c = ilf_jax.base_config()
    c.task, c.template.policy = task, "{document}"
    c.data.source = c.data.eval_source = "builtin:word_removal_references"
    c.data.train_size, c.data.eval_size = 4, 0
    c.policy.checkpoint, c.policy.tokenizer, c.finetune.target = "init:tiny", "train:512", "reference"
    with pytest.raises(RuntimeError, match="enough"):
        ilf_jax.run(c, tmp_path / "run")
    with pytest.raises(RuntimeError, match="enough"):
        dry_run.dry_run(config_lib.read(c))
    assert passed == [units, units]
