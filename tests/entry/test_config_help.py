"""What `ilf-jax config` says is what the configuration checks."""

import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax import cli
from ilf_jax import config as config_lib
from ilf_jax.entry import config_help
from ilf_jax.errors import InputError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("name", "parts"), [
    ("refine.top_p", ["config.refine.top_p = 0.95", "1: off", "float; above 0 and at most 1"]),
    ("config.data.train_size", ["= None", "documents an iteration", "int or None; at least 1"]),
    ("finetune.init", ["str; 'base', 'previous'"]), ("data.where", ["tuple of str"]),
    ("feedback.source", ["'oracle': a program, for tasks that have one", "file:PATH:NAME"]),
    ("data", ["config.data: the documents", "config.data.fields.title = None", "config.data.eval_size = 16"]),
    ("", ["config.iterations = 1", "  finetune ", "--config.KEY=None"]),
])
def test_describe(name, parts):
    text = config_help.describe(name)
    assert all(part in text for part in parts), text
    assert max(map(len, text.splitlines())) <= 110


def test_every_key_has_a_meaning_and_a_default_that_is_allowed():
    described = config_help.describe("all")
    defaults = config_lib.flat(config_lib.read(ilf_jax.base_config()))
    for name, entry in config_lib.key_table().items():
        assert f"config.{name} = " in described and entry.doc
        assert defaults[name] == entry.default or name == "baselines"
    assert set(config_lib.sections()) | set(config_lib.key_table()) == set(config_lib.key_names())


def test_a_wrong_key_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean config\.finetune\.epochs"):
        config_help.describe("fintune.epochs")


@pytest.mark.parametrize("arguments", [["config", "draft"], ["configs"]])
def test_the_commands_print_and_end_with_0(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ilf-jax", *arguments])
    assert cli.main() == 0
    out, err = capsys.readouterr()
    assert ("config.draft.temperature" in out or "quickstart" in out) and err == ""


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m ilf_jax config all | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "config.seed = 0\n0\n" and done.stderr == ""
