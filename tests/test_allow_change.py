"""A run stopped before finetuning goes on with other settings of finetuning, and keeps what it has."""

import json

import pytest
from conftest import run_main

import ilf_jax
from ilf_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def stopped(tiny_config, tmp_path, monkeypatch):
    """(Config, folder) of a run with a baseline that was stopped where finetuning would begin."""
    folder = tmp_path / "run"
    tiny_config.baselines = {"slow": {"finetune.learning_rate": 1e-5}}

    def stop(*arguments):
        raise InputError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("ilf_jax.ilf.finetune", stop)
        with pytest.raises(InputError, match="stopped"):
            ilf_jax.run(tiny_config, folder)
    return tiny_config, folder


def test_what_has_not_begun_may_change_baselines_included(stopped, capsys):
    config, folder = stopped
    records = {p: p.read_bytes() for p in (folder / "iteration_001").rglob("*-of-*.jsonl")}
    assert {p.parent.name for p in records} == {"draft", "feedback", "refine", "score"}
    config.finetune.epochs = 2
    code, said = run_main(config, folder, capsys)
    assert code == 2 and "config.finetune.epochs: 1 -> 2" in said and "--allow_change=finetune" in said
    code, said = run_main(config, folder, capsys, "--allow_change=finetune")
    assert code == 0, said
    assert {p: p.read_bytes() for p in records} == records
    (change,) = map(json.loads, (folder / "changes.jsonl").read_text().splitlines())
    assert (change["key"], change["from"], change["to"]) == ("finetune.epochs", 1, 2)
    for run in (folder, folder / "baselines/slow"):
        assert json.loads((run / "config.json").read_text())["finetune"]["epochs"] == 2
    assert run_main(config, folder, capsys)[0] == 0  # accepted from now on
    config.finetune.epochs = 3
    code, said = run_main(config, folder, capsys, "--allow_change=finetune")
    assert code == 2 and "finetune has begun, in iteration 1" in said


def test_a_baseline_s_folder_is_compared_before_the_run_goes_on(stopped):
    config, folder = stopped
    ilf_jax.run(config, folder)
    config.baselines = {"slow": {"finetune.learning_rate": 1e-6}}
    metrics = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"(?s)baselines/slow: holds.*learning_rate: 1e-05 -> 1e-06 \(finetune has"):
        ilf_jax.run(config, folder, allow_change=("baselines", "finetune"))
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    config.baselines = {"slow": {"finetune.learning_rate": 1e-5}, "more": {"finetune.epochs": 2}}
    ilf_jax.run(config, folder, allow_change=("baselines",))
    assert (folder / "baselines/more/config.json").exists()


@pytest.mark.fast
def test_a_wrong_name_is_refused_before_anything_is_loaded(tiny_config, tmp_path, capsys):
    code, said = run_main(tiny_config, tmp_path / "run", capsys, "--allow_change=finetun")
    assert code == 2 and said.startswith("error: --allow_change=finetun: allowed are") and "'finetune'?" in said
    assert not (tmp_path / "run").exists()
