"""Rows that are too long are found before the first stage, with --dry_run and without; config.data.too_long rules."""

import json
import pathlib

import pytest
from conftest import run_main

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.tokenizers import bpe_training

pytestmark = pytest.mark.usefixtures("quick_compiles")

CASE = pathlib.Path(__file__).parents[1] / "cases/late_max_length/data.jsonl"


def written(tmp_path, **changed):
    """The rows of the case, of which the fourth has other texts."""
    rows = [json.loads(line) for line in CASE.read_text().splitlines()][:12]
    rows[3] |= changed
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def small(source=f"jsonl:{CASE}", **changes):
    c = ilf_jax.base_config()
    c.task, c.data.source, c.data.train_size, c.data.eval_size = "summarize", source, 6, 2
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", "train:400"
    for section in (c.draft, c.feedback, c.refine, c.evaluate):
        section.max_new_tokens, section.batch_size = 4, 2
    c.refine.num_candidates, c.score.method, c.finetune.batch_size = 2, "longest", 4
    c.evaluate.nll = False
    c.update_from_flattened_dict(changes)
    return c


def refused(config, folder):
    """What is said where a run is refused, having left nothing behind."""
    with pytest.raises(InputError) as error:
        ilf_jax.run(config, folder)
    assert not folder.exists()
    return str(error.value)


LONG = "Say where and when and why they met at all. " * 60


@pytest.mark.fast
@pytest.mark.parametrize("too_long", ["stop", "skip", "truncate"])
def test_a_max_length_below_every_prompt(tmp_path, too_long):
    said = refused(small(**{"finetune.max_length": 8, "data.too_long": too_long}), tmp_path / "run")
    assert said.startswith("6 of 6 documents leave no room for what is to be learned, the first: finetune: policy ")
    assert "of config.finetune.max_length=8 tokens" in said and "Raise config.finetune.max_length" in said


@pytest.mark.fast
@pytest.mark.parametrize("changes", [
    {"finetune.target": "reference"}, {"finetune.target": "initial"}, {"finetune.objective": "weighted"}])
def test_the_same_of_other_targets(tmp_path, changes):
    assert "6 of 6 documents leave no room" in refused(
        small(**{"finetune.max_length": 8, **changes}), tmp_path / "run")


@pytest.mark.fast
def test_the_same_of_a_baseline(tmp_path):
    c = small()
    c.baselines = {"short": {"finetune.max_length": 8}}
    assert "6 of 6 documents leave no room" in refused(c, tmp_path / "run")


@pytest.mark.fast
def test_the_program_says_it_in_one_line_with_and_without_dry_run(tmp_path, capsys):
    c = small(**{"finetune.max_length": 8})
    for more in ((), ("--dry_run",)):
        code, said = run_main(c, tmp_path / "run", capsys, *more)
        assert code == 2 and "error: 6 of 6 documents leave no room" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.fast
@pytest.mark.parametrize("field", ["draft", "feedback", "title"])
def test_a_recorded_text_too_long_for_the_refiner(tmp_path, field):
    said = refused(small(written(tmp_path, **{field: LONG})), tmp_path / "run")
    assert said.startswith("1 of 6 documents leave no room in a prompt, the first: refine: refiner prompt of document "
                           "'row-000004'") or field == "title"
    assert "config.data.too_long='skip'" in said and "'row-000004'" in said


@pytest.mark.fast
def test_a_title_too_long_of_a_held_out_document(tmp_path):
    rows = written(tmp_path, title=LONG)
    said = refused(small(rows, **{"data.train_size": 2, "data.eval_size": 9}), tmp_path / "run")
    assert said.startswith("1 of 9 held-out documents leave no room in a prompt, the first: evaluate: policy prompt")


@pytest.mark.fast
def test_a_text_to_imitate_that_is_too_long(tmp_path):
    changes = {"finetune.target": "reference", "finetune.max_length": 200}
    said = refused(small(written(tmp_path, reference=LONG), **changes), tmp_path / "run")
    assert said.startswith("1 of 6 documents leave no room for what is to be learned") and "'truncate' cuts" in said


@pytest.fixture
def begin(monkeypatch):
    """Runs a configuration up to where its first iteration is begun; returns the iteration's documents."""

    def begin(config, folder):
        met = []

        def learn(method):
            met.extend(method.begin_iteration(1).examples)
            raise InputError("begun")

        monkeypatch.setattr("ilf_jax.ilf.learn", learn)
        with pytest.raises(InputError, match="begun"):
            ilf_jax.run(config, folder)
        return met

    return begin


def test_such_rows_are_left_out_or_shortened(tmp_path, begin, caplog):
    rows = written(tmp_path, feedback=LONG)
    left = begin(small(rows, **{"data.too_long": "skip"}), tmp_path / "skip")
    assert "1 of 6 documents left out: config.data.too_long='skip'; the first: refine" in caplog.text
    assert [e.id for e in left] == [f"row-00000{i}" for i in (1, 2, 3, 5, 6)]
    cut = begin(small(rows, **{"data.too_long": "truncate"}), tmp_path / "truncate")
    assert "1 of 6 documents shortened" in caplog.text
    assert LONG.startswith(cut[3].feedback) and 20 < len(cut[3].feedback) < len(LONG)
    assert begin(small(rows, **{"data.too_long": "truncate"}), tmp_path / "truncate") == cut


def test_a_tokenizer_is_checked_as_the_run_trains_it(tmp_path, begin, monkeypatch):
    """Without the rows that are left out, of which it would have learned other tokens."""
    learned_from, train = [], bpe_training.train_bpe

    def spy(texts, *settings):
        learned_from.append(list(texts))
        return train(learned_from[-1], *settings)

    monkeypatch.setattr(bpe_training, "train_bpe", spy)
    source = written(tmp_path, feedback=LONG)
    path = tmp_path / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["feedback"] = LONG[:400]  # fits, but bytes do not show it
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    begin(small(source, **{"data.too_long": "skip"}), tmp_path / "run")
    assert [len(texts) for texts in learned_from] == [6, 5, 5] and learned_from[1] == learned_from[2]


def test_rows_that_only_a_baseline_cannot_read_are_left_out_of_both(tmp_path, begin):
    c = small(written(tmp_path, feedback=LONG), **{"data.too_long": "skip", "finetune.target": "reference"})
    c.baselines = ("refinement",)
    assert len(begin(c, tmp_path / "run")) == 5


@pytest.mark.fast
def test_held_out_documents_of_another_file_may_have_the_same_ids(tmp_path, begin):
    other = tmp_path / "held_out.jsonl"
    rows = [json.loads(line) for line in CASE.read_text().splitlines()][:6]
    rows[1]["title"] = LONG
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.eval_source": f"jsonl:{other}", "data.eval_size": 6, "data.too_long": "skip"}
    assert [e.id for e in begin(small(**changes), tmp_path / "run")] == [f"row-00000{i}" for i in range(1, 7)]
    changes["data.too_long"] = "truncate"
    assert not any(e.title for e in begin(small(**changes), tmp_path / "other"))


def targets(folder):
    (path,) = (folder / "iteration_001/finetune").glob("*-of-*.jsonl")
    return {row["id"]: row["completion"] for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize("too_long", ["skip", "truncate"])
def test_texts_to_imitate_are_left_out_or_cut(tmp_path, too_long):
    changes = {"finetune.target": "reference", "finetune.max_length": 200, "data.too_long": too_long,
               "data.eval_size": 0, "data.train_size": 4, "finetune.batch_size": 4}
    metrics = ilf_jax.run(small(written(tmp_path, reference=LONG), **changes), tmp_path / "run")
    completions = targets(tmp_path / "run")
    if too_long == "skip":
        assert set(completions) == {"row-000001", "row-000002", "row-000003"}
    else:
        assert LONG.startswith(completions["row-000004"]) and len(completions["row-000004"]) > 100
    assert [m["value"] for m in metrics if m["metric"] == "too_long"] == [1.0]


def test_what_a_model_wrote_and_does_not_fit_can_be_mended(tiny_config, tmp_path, caplog):
    tiny_config.finetune.max_length, tiny_config.data.eval_size = 24, 0
    with pytest.raises(InputError, match=r"--allow_change=finetune,data\.too_long"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    assert "a text of 8 tokens, as long as one may get, will not fit" in caplog.text
    refined = {p: p.read_bytes() for p in (tmp_path / "run/iteration_001/refine").glob("*.jsonl")}
    tiny_config.data.too_long = "truncate"
    ilf_jax.run(tiny_config, tmp_path / "run", allow_change=("data.too_long",))
    assert refined and {p: p.read_bytes() for p in refined} == refined


@pytest.mark.fast
def test_no_number_but_length_is_said_before_the_run(tmp_path, begin, caplog):
    path = tmp_path / "bare.jsonl"
    path.write_text("".join(json.dumps({"text": f"Item {i} was sold.", "d": "Sold.", "f": "Say what."}) + "\n"
                            for i in range(10)))
    fields = {"data.fields.document": "text", "data.fields.draft": "d", "data.fields.feedback": "f"}
    c = small(f"jsonl:{path}", **fields, **{"evaluate.nll": True})
    begin(c, tmp_path / "run")
    assert "nothing will be measured on held-out documents but how long outputs are: map references" in caplog.text
    caplog.clear()
    c.evaluate.win_rate = True
    begin(c, tmp_path / "second")
    assert "nothing will be measured" not in caplog.text


@pytest.mark.fast
def test_the_default_is_to_stop():
    assert config_lib.read({}).data.too_long == "stop"


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["comparison", "classification", "scalar"])
def test_comparisons_that_are_too_long(tmp_path, begin, caplog, kind, monkeypatch):
    path, met = tmp_path / "compared.jsonl", []
    rows = [{"document": f"Item {i} was sold.", "first": f"Sold {i}.", "second": LONG if i == 2 else "Gone.",
             "preferred": "first"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"reward.source": f"jsonl:{path}", "reward.eval_size": 3, "reward.kind": kind, "reward.max_length": 300}
    said = refused(small(**changes), tmp_path / "run")
    assert said.startswith("1 of 5 comparisons are too long, the first: reward: ") and "config.data.too_long" in said
    none = small(**changes | {"reward.max_length": 8, "data.too_long": "skip"})
    assert refused(none, tmp_path / "run").startswith("5 of 5 comparisons are too long")
    monkeypatch.setattr("ilf_jax.ilf.train_reward_model", lambda context, compared: met.append(compared))
    begin(small(**changes, **{"data.too_long": "skip"}), tmp_path / "run")
    assert (len(met[0].train), len(met[0].held_out)) == (4, 3) and "They are left out" in caplog.text


def test_feedback_written_in_the_run_that_leaves_no_room(tmp_path):
    """It stops the run; the run goes on without the document, which neither refiner nor judge is shown."""
    source = tmp_path / "source.py"
    source.write_text(f"def feedback(document, draft):\n    return {LONG!r} if draft == 'Long.' else 'Say what.'\n")
    rows = written(tmp_path, draft="Long.")
    c = small(rows, **{"feedback.source": f"file:{source}:feedback", "draft.source": "recorded", "data.eval_size": 0,
                       "score.method": "instruct_rm", "finetune.max_length": 400})
    with pytest.raises(InputError, match=r"some of it models have written.*--allow_change=data\.too_long"):
        ilf_jax.run(c, tmp_path / "run")
    c.data.too_long = "skip"
    metrics = ilf_jax.run(c, tmp_path / "run", allow_change=("data.too_long",))
    assert [m["stage"] for m in metrics if m["metric"] == "too_long" and m["value"] == 1] == ["refine", "score"]
    stages = tmp_path / "run/iteration_001"
    of_stage = {stage: {row["id"]: row for path in (stages / stage).glob("0*.jsonl")
                        for row in map(json.loads, path.read_text().splitlines())}
                for stage in ("refine", "score", "finetune")}
    left_out = [i for i, row in of_stage["refine"].items() if not any(row["num_tokens"])]
    assert len(left_out) == 1 and of_stage["refine"][left_out[0]]["texts"] == ["", ""]
    assert of_stage["score"][left_out[0]]["prompt_scores"] == []
    assert len(of_stage["refine"]) == len(of_stage["score"]) == 6 and left_out[0] not in of_stage["finetune"]
