"""What a finetuning does before its first step, and what of that a resumed one does again."""

import json

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.stages import finetune
from ilf_jax.training.batch_schedule import Plan
from ilf_jax.training.objectives import NextToken

pytestmark = pytest.mark.usefixtures("quick_compiles")
STOPS_AT = 2


class _StoppedError(Exception):
    pass


def written(folder):
    """The stage's records and log, and what the run measured."""
    stage = folder / "iteration_001" / "finetune"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return ((stage / "00000-of-00001.jsonl").read_bytes(), (stage / "steps.jsonl").read_bytes(),
            [row for row in metrics if row["stage"] in ("finetune", "evaluate")])


def test_a_resumed_run_reads_its_targets_and_no_other_records(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(NextToken, "counted", classmethod(lambda cls, learned, settings: "counted_documents"))
    ilf_jax.run(tiny_config, tmp_path / "undisturbed")

    folder, original = tmp_path / "resumed", Plan.batch
    targets = folder / "iteration_001/finetune/00000-of-00001.jsonl"

    def stops(plan, step):
        if step == STOPS_AT:
            raise _StoppedError
        return original(plan, step)

    monkeypatch.setattr(Plan, "batch", stops)
    with pytest.raises(_StoppedError):
        ilf_jax.run(tiny_config, folder)
    steps = []
    monkeypatch.setattr(Plan, "batch", lambda plan, step: steps.append(step) or original(plan, step))

    content = targets.read_bytes()
    targets.write_bytes(content.replace(b'"id"', b'"iD"', 1))
    with pytest.raises(InputError, match=r"finetune/00000-of-00001\.jsonl: is damaged.*delete it"):
        ilf_jax.run(tiny_config, folder)
    assert not steps
    targets.write_bytes(content)

    def no_records(context, records):
        raise AssertionError("the records of other stages are read again")

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_learned_from", no_records)
        ilf_jax.run(tiny_config, folder)
    assert steps == [0, STOPS_AT]  # the first gives the shapes
    assert written(folder) == written(tmp_path / "undisturbed")
    assert any(row["metric"] == "counted_documents" and row["value"] == 6 for row in written(folder)[-1])


def test_targets_that_were_deleted_are_made_again(tiny_config, tmp_path, monkeypatch):
    original, folder = Plan.batch, tmp_path / "run"

    def stops(plan, step):
        raise _StoppedError

    monkeypatch.setattr(Plan, "batch", stops)
    with pytest.raises(_StoppedError):
        ilf_jax.run(tiny_config, folder)
    monkeypatch.setattr(Plan, "batch", original)
    targets = folder / "iteration_001/finetune/00000-of-00001.jsonl"
    content = targets.read_bytes()
    targets.unlink()
    ilf_jax.run(tiny_config, folder)
    assert targets.read_bytes() == content
