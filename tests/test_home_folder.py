"""`~` is the home folder wherever a path or a URI is given: the shell leaves it alone in --flag=~/x and hf:~/x."""

import json
import shutil

import pytest
from conftest import main_with_flags

import ilf_jax
from ilf_jax import config_sections
from ilf_jax.data import sources
from ilf_jax.export import export_policy
from ilf_jax.inference.model_pool import read_model_config, tokenizer_uri
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import storage
from ilf_jax.sweeps import command_line
from ilf_jax.tokenizers.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(home, tiny_run):
    """A copy of a finished run: its config. It is ~/run."""
    shutil.copytree(tiny_run[1], home / "run")
    return tiny_run[0]


def test_a_run_is_found(home, run):
    assert ilf_jax.run(run, "~/run") is not None
    assert sorted(path.name for path in home.iterdir()) == ["run"]
    assert workfolder.read("~/run").iterations


def test_export(home, run):
    export_policy.export("~/run", 2, "~/deep/model")
    assert read_model_config("hf:~/deep/model") == read_model_config("orbax:~/run/iteration_002/checkpoint")
    assert (home / "deep" / "model" / "config.json").exists()
    settings = config_sections.Model(checkpoint="orbax:~/run/iteration_002/checkpoint")
    tokenizer = Tokenizer.load(tokenizer_uri(settings, storage.path("~/x")))
    assert tokenizer.encode("a b") == Tokenizer.load("file:~/deep/model/tokenizer.json").encode("a b")


def test_config_and_data(home, capsys):
    (home / "c.py").write_text("raise ValueError('config was run')\n")
    code, err = main_with_flags(capsys, "--config=~/c.py", "--workdir=~/w")
    assert code == 2 and "config was run" in err
    (home / "d.jsonl").write_text(json.dumps({"document": "x"}) + "\n")
    rows = list(sources.read_rows("jsonl:~/d.jsonl", "", None, "config.data"))
    assert len(rows) == 1 and rows[0].where.startswith(str(home))


def test_sweep(home, capsys):
    (home / "s.py").write_text(
        "from ilf_jax.sweeps.grid import Sweep\n\n\ndef get_sweep():\n    return Sweep(config='configs/quickstart.py', "
        "cells=({'seed': 0},), metrics=('train/loss',))\n")
    code = command_line.main(["--config=~/s.py", "--workdir=~/sweep", "--emit=commands"])
    out, err = capsys.readouterr()
    assert code == 0 and str(home / "sweep") in out, err
