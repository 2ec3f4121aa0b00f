"""Controls: another document's feedback, none, or empty praise, fixed by the seed, over whatever the source gives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import preflight
from ilf_jax import tasks as tasks_lib
from ilf_jax.errors import InputError
from ilf_jax.feedback import control
from ilf_jax.runtime import stage_folder


@pytest.mark.fast
@given(st.sets(st.text(min_size=1), min_size=2, max_size=40), st.integers(0, 2**63), st.integers(1, 9))
def test_nobody_gets_their_own_feedback_and_everybody_s_is_given_once(ids, seed, iteration):
    givers = control.shuffled(sorted(ids), seed, iteration)
    assert set(givers) == set(givers.values()) == ids
    assert all(giver != i for i, giver in givers.items())
    assert givers == control.shuffled(sorted(ids, reverse=True), seed, iteration)


@pytest.mark.fast
def test_the_seed_and_the_iteration_decide():
    ids = [str(i) for i in range(50)]
    first = control.shuffled(ids, 1, 1)
    assert first == control.shuffled(ids, 1, 1)
    assert first != control.shuffled(ids, 2, 1) and first != control.shuffled(ids, 1, 2)


def rows(folder, stage):
    lines = [line for path in sorted((folder / "iteration_001" / stage).glob("0*.jsonl")) for line in path.open()]
    return {row["id"]: row for row in map(json.loads, lines)}


def with_recorded(c, tmp_path, count=8):
    """A run on recorded drafts and feedback, up to and with the stage of feedback and no further than need be."""
    lines = [{"document": f"Person {i}", "draft": f"Person {i} is a fool.", "feedback": f"Remove number {i}."}
             for i in range(count)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source, c.data.train_size, c.data.eval_size, c.data.eval_source = (
        f"jsonl:{tmp_path / 'data.jsonl'}", 6, 2, None)
    c.feedback.source, c.score.method = "recorded", "random"
    return c


@pytest.mark.usefixtures("quick_compiles")
def test_controls_over_recorded_feedback_and_a_stopped_run_that_goes_on(tiny_config, tmp_path, monkeypatch):
    c = with_recorded(tiny_config, tmp_path)
    c.refine.num_candidates = 1
    c.baselines = {name: {"feedback": {"control": name}} for name in ("shuffled", "withheld", "empty_praise")}
    ilf_jax.run(c, tmp_path / "run")
    own = rows(tmp_path / "run", "feedback")
    of = {name: rows(tmp_path / "run" / "baselines" / name, "feedback") for name in c.baselines}
    assert {row["text"] for row in of["withheld"].values()} == {""}
    assert {row["text"] for row in of["empty_praise"].values()} == {control.PRAISE}
    texts = {i: row["text"] for i, row in of["shuffled"].items()}
    assert sorted(texts.values()) == sorted(row["text"] for row in own.values())
    assert all(texts[i] != own[i]["text"] for i in own)
    # Drafts are drawn once, refinements once for each control.
    manifests = {name: json.loads((tmp_path / f"run/baselines/shuffled/iteration_001/{name}/manifest.json").read_text())
                 for name in ("draft", "feedback", "refine")}
    assert stage_folder.RECORDS_IN in manifests["draft"] and stage_folder.RECORDS_IN not in manifests["refine"]
    assert {i: row["texts"] for i, row in rows(tmp_path / "run", "refine").items()} != {
        i: row["texts"] for i, row in rows(tmp_path / "run/baselines/shuffled", "refine").items()}

    # Stopped behind the feedback of the shuffled baseline, then started again: the same bits.
    written = stage_folder.StageFolder.write_shard

    def stop(self, *arguments):
        written(self, *arguments)
        if self.path.name == "refine" and "shuffled" in str(self.path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage_folder.StageFolder, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            ilf_jax.run(c, tmp_path / "again")
    ilf_jax.run(c, tmp_path / "again")
    for path in sorted((tmp_path / "run" / "baselines").glob("*/iteration_001/*/0*.jsonl")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "run")).read_bytes()


@pytest.mark.usefixtures("quick_compiles")
def test_by_itself_shuffled_feedback_comes_from_the_source_about_the_other_document(tiny_config, tmp_path):
    """The same as a baseline's, which reads what the run was given."""
    c = with_recorded(tiny_config, tmp_path)
    c.feedback.control = "shuffled"
    ilf_jax.run(c, tmp_path / "alone")
    givers = control.shuffled(list(rows(tmp_path / "alone", "draft")), c.seed, 1)
    drafts = {e["id"]: e for e in map(json.loads, (tmp_path / "alone/iteration_001/examples.jsonl").open())}
    assert {i: row["text"] for i, row in rows(tmp_path / "alone", "feedback").items()} == {
        i: drafts[giver]["feedback"] for i, giver in givers.items()}


@pytest.mark.fast
@pytest.mark.parametrize(("changes", "words"), [
    ({"feedback.control": "withheld"}, ["feedback.control='withheld'", "score.method='instruct_rm'"]),
    ({"feedback.control": "shuffled", "feedback.source": "none", "score.method": "random"}, ["no feedback to replace"]),
    ({"feedback.control": "withheld", "score.method": "random", "finetune.objective": "fcp"},
     ["finetune.objective='fcp'", "words of feedback"]),
    ({"feedback.control": "other"}, ["feedback.control", "'shuffled'"]),
])
def test_controls_that_do_not_go_with_the_run(tiny_config, changes, words):
    with pytest.raises(InputError) as error:
        config = config_lib.read({**tiny_config.to_dict(), **changes})
        preflight.check_sources(config, tasks_lib.make_task(config))
    for word in words:
        assert word in str(error.value)


@pytest.mark.fast
def test_a_single_document_has_no_other(tiny_config):
    config = config_lib.read({**tiny_config.to_dict(), "feedback.control": "shuffled"})
    with pytest.raises(InputError, match="two documents"):
        control.check(config, tasks_lib.make_task(config), [ilf_jax.records.Example("1", "one")])
