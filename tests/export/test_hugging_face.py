"""A finished run's policy as a Hugging Face folder: transformers must make the same of it."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat

import jax
import numpy as np
import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.export import export_policy
from ilf_jax.export.exported import Exported
from ilf_jax.models import layer_stack
from ilf_jax.policy import finished as finished_lib
from ilf_jax.reporting import markdown, tables, workfolder
from ilf_jax.runtime import files

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXTS = ("Describe Ada the baker.\nText:", " Ada is a fool, a gem and a goose.", "Ünï 🙂", "A  b\n\n c")


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "deep" / "model"
    export_policy.export(tiny_run[1], 2, out)
    return out


def test_logits_and_tokens_are_those_of_transformers(tiny_run, exported):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    from ilf_jax.models import checkpoint_io, transformer
    from ilf_jax.runtime import checkpoint
    from ilf_jax.tokenizers.tokenizer import Tokenizer

    source = tiny_run[1] / "iteration_002/checkpoint"
    config = checkpoint_io.read_config(f"orbax:{source}")
    params = checkpoint.load_model(source, transformer.param_shapes(config))
    ours = Tokenizer.load(f"hf:{source / 'tokenizer'}")
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    assert theirs.eos_token_id == ours.eos_id == model.config.eos_token_id
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs.encode(text) == ids and theirs.decode(ids) == text
        hidden = transformer.forward(config, params, np.array([ids], np.int32))
        logits = np.asarray(transformer.unembed(config, params, hidden))[0]
        with torch.no_grad():
            right = model(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(logits, right, atol=1e-4)
    assert np.abs(right).max() > 0.01


@pytest.mark.fast
def test_what_was_exported_is_a_checkpoint(tiny_run, exported, tiny_config, tmp_path):
    """The next run may start from it, and differs from one that starts from the params before training."""
    tiny_config.policy.checkpoint, tiny_config.policy.tokenizer = f"hf:{exported}", None
    tiny_config.finetune.target = "initial"
    ilf_jax.run(tiny_config, tmp_path / "run")
    same, before = (
        [(folder / name).read_text() for name in (f"iteration_{k:03d}/evaluate/00000-of-00002.jsonl",)]
        for folder, k in ((tiny_run[1], 2), (tiny_run[1], 0)))
    ours = [(tmp_path / "run/iteration_000/evaluate/00000-of-00002.jsonl").read_text()]
    assert ours == same and ours != before


@pytest.mark.parametrize(("iteration", "file", "message"), [
    (3, None, "iteration 3 has no finished checkpoint"),
    (1, "notes.txt", "is not empty"),
])
def test_errors(tiny_run, tmp_path, iteration, file, message):
    out = tmp_path / "out"
    if file:
        out.mkdir()
        (out / file).write_text("mine")
    before = {p: p.read_text() for p in out.rglob("*")}
    with pytest.raises(InputError, match=re.escape(message)):
        export_policy.export(tiny_run[1], iteration, out)
    assert {p: p.read_text() for p in out.rglob("*")} == before and out.exists() == bool(file)


def test_an_unfinished_iteration(tiny_run, tmp_path):
    """Params without the rest of the checkpoint: a run that was killed here."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run[1], run)
    (run / "iteration_002/checkpoint/model.json").unlink()
    with pytest.raises(InputError, match="iteration 2 has no finished checkpoint"):
        export_policy.export(run, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_is_a_file(tiny_run, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="--out"):
        export_policy.export(tiny_run[1], 1, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


NAMES = ("Ada the baker", "Bo the tailor", "Ünï the 🙂", 'Cy "{the}" clerk')


@pytest.fixture(scope="module")
def fluent(fluent_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("fluent") / "out"
    export_policy.export(fluent_run, None, out)
    return out


def test_the_code_of_the_model_card_answers_as_the_policy_does(fluent_run, fluent, capsys):
    """As it stands there: nothing but the folder and the document is put in. Decoding is greedy, as in the run."""
    pytest.importorskip("transformers")
    (code,) = re.findall(r"```python\n(.*?)```", (fluent / "README.md").read_text(), re.DOTALL)
    assert code.count("THIS_FOLDER") == 1 and code.count('"The text that the policy works on."') == 1
    names = {}
    capsys.readouterr()
    code = code.replace("THIS_FOLDER", str(fluent)).replace('"The text that the policy works on."', repr(NAMES[0]))
    exec(code, names)
    answers = [capsys.readouterr().out.removesuffix("\n")]
    for name in NAMES[1:]:
        written = names["policy"]([{"role": "user", "content": name}])
        answers.append(written[0]["generated_text"][-1]["content"].strip())
    assert answers == [texts[0] for texts in ilf_jax.load(fluent_run).generate(NAMES)]
    assert all(len(answer) > 12 for answer in answers)


def test_the_model_card(tiny_run, exported):
    card = (exported / "README.md").read_text()
    head, text = card.removeprefix("---\n").split("---\n", 1)
    fields = dict(line.split(": ") for line in head.splitlines() if ": " in line and line[0] not in "#-")
    assert fields == {"library_name": "transformers", "pipeline_tag": "text-generation"}
    assert "# license: the base model's license applies" in head
    table = tables.headline_table(workfolder.read(tiny_run[1]))
    assert len(table.rows) > 3 and markdown.table(table.columns, table.rows) in text
    assert "iteration 2 of 2" in text and "on 4 held-out documents" in text
    (config,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert json.loads(config) == files.read_sealed(tiny_run[1] / "config.json")
    documents = (tiny_run[1] / "iteration_002/examples.jsonl").read_bytes()
    assert f"| trained on in iteration 2 | {hashlib.sha256(documents).hexdigest()} |" in text


def test_everybody_may_read_the_files(exported):
    umask = os.umask(0)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()}
    assert modes == {0o666 & ~umask}


def changed(run, folder, **values):
    """A copy of a run whose config.json says something else."""
    shutil.copytree(run, folder)
    files.write_json(folder / "config.json", files.read_sealed(folder / "config.json") | values)
    return folder


def test_a_baseline(tiny_run, tmp_path):
    """Its folder is laid out as a run's."""
    changed(tiny_run[1], tmp_path / "run", baselines={"initial": "initial"})
    shutil.copytree(tiny_run[1], tmp_path / "run/baselines/initial")
    export_policy.export(tmp_path / "run", None, tmp_path / "out", baseline="initial")
    card = (tmp_path / "out/README.md").read_text()
    assert "It belongs to the baseline initial." in card and "initial drafts |" in card
    with pytest.raises(InputError, match="has no baseline 'first'; it has initial"):
        export_policy.export(tmp_path / "run", None, tmp_path / "other", baseline="first")


def test_a_task_that_is_not_here(tiny_run, tmp_path):
    """The weights are exported nevertheless."""
    run = changed(tiny_run[1], tmp_path / "run", task="file:gone.py:Task")
    export_policy.export(run, 1, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "does not hold the policy's prompt: the task cannot be loaded" in card and "gone.py" in card
    assert not (tmp_path / "out/chat_template.jinja").exists() and (tmp_path / "out/model.safetensors").exists()


def test_params_in_stacks_are_written_layer_by_layer(fluent_run):
    found = finished_lib.find(fluent_run, 0)
    scanned = dataclasses.replace(found, config=dataclasses.replace(found.config, layers="scan"))
    params, of_stacks = (Exported.of(finished).params for finished in (found, scanned))
    assert any(map(layer_stack.is_stacked, Exported.of(scanned).roles.take("policy")))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, of_stacks))
