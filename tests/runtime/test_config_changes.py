"""What of a configuration may change while a run is under way, and what is said where it may not."""

import json

import pytest

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.runtime import config_changes, workdir

pytestmark = pytest.mark.fast


def open_with(folder, changes, allowed=()):
    config = config_lib.to_dict(config_lib.with_overrides(config_lib.read({}), changes))
    opened, lock = workdir.open_workdir(folder, config, allow_change=allowed)
    with lock:
        return opened


def begin(opened, iteration, stage, *, complete=False, shard=False):
    folder = opened.stage(iteration, stage)
    folder.begin()
    if shard:
        folder.write_shard(0, 2, [])
    if complete:
        folder.finish(shards=0, count=0, metrics=[])


@pytest.fixture
def folder(tmp_path):
    """Drafts and feedback are complete, refinements begun; refine's successor has a manifest but nothing else."""
    opened = open_with(tmp_path, {})
    begin(opened, 1, "draft", complete=True)
    begin(opened, 1, "feedback", complete=True)
    begin(opened, 1, "refine", shard=True)
    begin(opened, 1, "score")
    return tmp_path


def test_a_stage_that_has_not_begun_may_change_where_that_is_allowed(folder):
    changes = {"finetune.max_length": 64, "finetune.epochs": 3}
    message = r"finetune\.max_length: 1024 -> 64 \(no stage that reads it has begun: --allow_change=finetune takes"
    with pytest.raises(InputError, match=message):
        open_with(folder, changes)
    assert not (folder / "changes.jsonl").exists()
    open_with(folder, changes, ["finetune"])
    rows = [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]
    assert [(row["key"], row["from"], row["to"]) for row in rows] == [
        ("finetune.epochs", 1, 3), ("finetune.max_length", 1024, 64)]
    assert all(row["when"] > 1e9 for row in rows)
    assert json.loads((folder / "config.json").read_text())["finetune"]["max_length"] == 64
    open_with(folder, changes)  # what was changed is the run's configuration from now on
    with pytest.raises(InputError, match=r"finetune\.max_length: 64 -> 1024"):
        open_with(folder, {})


def test_a_single_key_may_be_allowed(folder):
    open_with(folder, {"finetune.epochs": 3}, ["config.finetune.epochs"])
    with pytest.raises(InputError, match=r"beta: 1\.0 -> 2\.0"):
        open_with(folder, {"finetune.epochs": 3, "finetune.beta": 2.0}, ["finetune.epochs"])


@pytest.mark.parametrize(("changes", "message"), [
    ({"refine.temperature": 0.5}, r"refine\.temperature: 1\.0 -> 0\.5 \(refine has begun, in iteration 1\)"),
    ({"refiner.chat": "never"}, r"refiner\.chat: 'auto' -> 'never' \(refine has begun, in iteration 1\)"),
    ({"feedback.source": "critic"}, r"\(draft has begun, in iteration 1\)"),
    ({"precision": "bfloat16"}, r"precision: 'auto' -> 'bfloat16' \(every stage may depend on it\)"),
    ({"data.eval_size": 3}, r"every stage may depend on it"),
])
def test_a_stage_that_has_begun_refuses_with_both_values(folder, changes, message):
    everything = config_changes.SECTIONS
    with pytest.raises(InputError, match=message):
        open_with(folder, changes, everything)


def test_one_refused_change_refuses_all(folder):
    with pytest.raises(InputError, match=r"(?s)epochs: 1 -> 3\n.*refine has begun"):
        open_with(folder, {"finetune.epochs": 3, "refine.top_p": 0.5}, ["finetune", "refine"])
    assert not (folder / "changes.jsonl").exists()


def test_what_a_stage_without_results_had_noted_is_forgotten(folder):
    assert (folder / "iteration_001/score/manifest.json").exists()
    open_with(folder, {"score.method": "random"}, ["score"])
    assert not (folder / "iteration_001/score/manifest.json").exists()
    assert (folder / "iteration_001/refine/manifest.json").exists()


def test_a_change_noted_before_a_kill_is_not_noted_twice(folder):
    old = (folder / "config.json").read_text()
    open_with(folder, {"finetune.epochs": 3}, ["finetune"])
    (folder / "config.json").write_text(old)  # as a process leaves it that is killed between the two files
    open_with(folder, {"finetune.epochs": 3}, ["finetune"])
    assert len((folder / "changes.jsonl").read_text().splitlines()) == 1


def test_a_user_s_code_counts_as_the_key_that_chose_it():
    change = config_changes.Difference("source_hashes.score.method=file:my.py:reward", "aa", "bb")
    assert (change.setting, change.read_by) == ("score.method", ("score",))


@pytest.mark.parametrize("name", ["finetun", "precision", "data", "finetune.max_lenght", ""])
def test_a_name_that_cannot_be_allowed(name):
    with pytest.raises(InputError, match="--allow_change="):
        config_changes.check_names([name], config_lib.key_names())
    config_changes.check_names(["finetune", "config.refine.top_p", "evaluate.rank"], config_lib.key_names())
