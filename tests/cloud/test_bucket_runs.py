"""A run with its folder in a bucket writes what it writes on a disk; what comes after a run takes URIs, too."""

import json
import pathlib
import runpy
import subprocess
import sys

import object_stores
import pytest
from conftest import main_with_flags

import ilf_jax
from ilf_jax.export import export_policy
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import bucket as bucket_lib
from ilf_jax.runtime import checkpoint_places, storage

ROOT = pathlib.Path(__file__).parents[2]


def forget():
    bucket_lib.bucket.cache_clear()
    storage._fetched.cache_clear()


def records(folder):
    """Content by name of what a run has recorded; of what it cost, only that it is there."""
    with storage.read_locally(storage.path(folder), leave_out={"tensorboard"}) as place:
        return {p.relative_to(place).as_posix(): b"" if p.name == "performance.jsonl" else p.read_bytes()
                for p in place.rglob("*.jsonl")}


def command(module, *given):
    """What a command prints."""
    done = subprocess.run([sys.executable, "-m", f"ilf_jax.{module}", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, quick_compiles):
    folder = tmp_path_factory.mktemp("disk") / "run"
    ilf_jax.run(_config(), folder)
    return folder


def _config():
    c = runpy.run_path(str(ROOT / "configs/quickstart.py"))["get_config"]()
    c.iterations, c.baselines = 1, ("random",)
    c.data.train_size, c.data.eval_size, c.refine.num_candidates, c.checkpoint.every_steps = 8, 4, 2, 1
    for section in (c.draft, c.refine, c.score, c.finetune, c.evaluate):
        section.batch_size = 4
    return c


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def store(request):
    """A store with a finished run in `run`, and the requests that this took."""
    with object_stores.started(request.param) as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment().items():
            patch.setenv(name, value)
        forget()
        yield started
        forget()


@pytest.fixture(scope="module")
def run(store, on_disk):
    """(URI of a finished run, the requests that it took)."""
    with store.proxy.settings():
        ilf_jax.run(_config(), f"{store.uri}/run")
        requests = list(store.proxy.requests)
    forget()
    return f"{store.uri}/run", requests


def test_records_are_those_of_a_run_on_a_disk(run, on_disk):
    expected = records(on_disk)
    assert len(expected) > 20 and records(run[0]) == expected


def test_few_requests(run):
    """At most 5 for each object that we write, a checkpoint's arrays apart, and none is looked up."""
    ours = [r for r in run[1] if "/params/" not in r.name and "/state/" not in r.name]
    written = {r.name for r in ours if r.kind == "write"}
    assert len(ours) <= 5 * len(written), [(r.kind, r.name) for r in ours]
    assert sum(r.kind in ("list", "stat", "bucket") for r in run[1]) <= 15
    # Others write the lease, too.
    assert not [r.name for r in run[1] if r.kind == "read" and r.name in written and not r.name.endswith("/.lease")]
    looked_at = [r for r in run[1] if r.kind != "write" and r.kind != "delete" and "/checkpoint" in r.name]
    assert not looked_at


def test_a_finished_run_is_read_and_left_alone(run, on_disk, store):
    with store.proxy.settings():
        ilf_jax.run(_config(), run[0])
        written = {r.name.rpartition("/")[2] for r in store.proxy.requests if r.kind == "write"}
    assert not {name for name in written if name.endswith("-of-00002.jsonl") or name == "manifest.json"}
    forget()
    assert records(run[0]) == records(on_disk)


def test_export_report_compare(run, store, tmp_path):
    export_policy.export(run[0], 1, f"{store.uri}/exported")
    export_policy.export(run[0], 1, tmp_path / "exported")
    with storage.read_locally(storage.path(f"{store.uri}/exported")) as place:
        assert {p.name: p.read_bytes() for p in place.iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "exported").iterdir()}
    with pytest.raises(ilf_jax.InputError, match="is not empty"):
        export_policy.export(run[0], 1, f"{store.uri}/exported")
    with pytest.raises(ilf_jax.InputError, match="none: not a work folder"):
        export_policy.export(f"{run[0]}/none", 1, tmp_path / "other")
    assert command("compare", f"--workdir={run[0]}").split() == ["before_training", "refinement", "random"]
    command("compare", f"--workdir={run[0]}", "--systems=refinement,random", f"--export={store.uri}/pairs.jsonl")
    assert storage.names(storage.path(store.uri)) >= {"pairs.jsonl", "pairs.jsonl.key.json"}
    with pytest.raises(ilf_jax.InputError, match=f"{store.uri}/none: not a work folder"):
        workfolder.read(f"{store.uri}/none")
    report = storage.path(run[0]) / "report.html"
    before = report.read_text()
    report.unlink()
    assert command("report", f"--workdir={run[0]}") == f"{run[0]}/report.html\n"
    forget()
    assert storage.path(str(report)).read_text().count("<table") == before.count("<table")


def test_data_and_models_from_a_bucket(run, store, tmp_path):
    where = storage.path(store.uri)
    lines = "".join(json.dumps({"document": f"you are a silly fool, number {i}"}) + "\n" for i in range(8))
    (where / "data.jsonl").write_text(lines)
    export_policy.export(run[0], 1, f"{store.uri}/model")
    (tmp_path / "data.jsonl").write_text(lines)
    forget()
    c = _config()
    c.baselines, c.data.source, c.feedback.source, c.score.method = (), f"jsonl:{store.uri}/data.jsonl", "none", "first"
    c.policy.checkpoint = f"orbax:{run[0]}/iteration_001/checkpoint"
    c.refiner.checkpoint = f"hf:{store.uri}/model"
    c.policy.tokenizer = f"file:{store.uri}/model/tokenizer.json"
    ilf_jax.run(c, f"{store.uri}/second")
    with storage.read_locally(storage.path(run[0])) as place:  # the same from a disk
        c.policy.checkpoint = f"orbax:{place}/iteration_001/checkpoint"
        c.refiner.checkpoint = f"hf:{place}/model"
        export_policy.export(place, 1, place / "model")
        c.policy.tokenizer, c.data.source = f"file:{place}/model/tokenizer.json", f"jsonl:{tmp_path}/data.jsonl"
        ilf_jax.run(c, tmp_path / "second")
    forget()
    assert records(f"{store.uri}/second") == records(tmp_path / "second")


def test_what_is_not_there_is_named(store, tmp_path):
    for key, uri in (("data.source", "jsonl:{}/none.jsonl"), ("policy.checkpoint", "hf:{}/none"),
                     ("policy.checkpoint", "gguf:{}/none.gguf"), ("policy.checkpoint", "orbax:{}/none"),
                     ("policy.tokenizer", "file:{}/none.json")):
        c = _config()
        c.update_from_flattened_dict({key: uri.format(store.uri)})
        with pytest.raises(ilf_jax.InputError, match=f"{store.uri}/none") as e:
            ilf_jax.run(c, tmp_path / "run")
        assert "\n" not in str(e.value)


def test_a_partial_checkpoint_is_none(run):
    """Whatever instant an upload was killed at: without its last object, a checkpoint does not count."""
    params = storage.path(run[0]) / "iteration_001" / "checkpoint" / "params"
    assert checkpoint_places.is_complete(params)
    (params / checkpoint_places.COMPLETE).unlink()
    forget()
    assert not checkpoint_places.is_complete(storage.path(str(params)))


@pytest.mark.parametrize("workdir", ["gs:/bucket/run", "gcs://bucket/run", "az://bucket/run"])
def test_the_command_refuses_in_one_line(workdir, capsys):
    code, said = main_with_flags(capsys, f"--config={ROOT}/configs/quickstart.py", f"--workdir={workdir}")
    assert code == 2 and said.startswith(f"error: {workdir}: ") and said.count("\n") == 1
