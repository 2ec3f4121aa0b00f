"""The data of the sample browser: whole chains, from the first iteration on, and never too much of them."""

import csv
import dataclasses
import io
import json
import shutil

import pytest
from made_up_runs import declare, make_run, write_stage

from ilf_jax import records
from ilf_jax.reporting import html_report, samples, workfolder
from ilf_jax.runtime import files
from ilf_jax.runtime.stage_folder import RECORDS_IN


@pytest.fixture
def folder(tmp_path):
    path = make_run(tmp_path / "run")
    make_run(path / "baselines" / "random", arm=True)
    return path


def views(work, **more):
    return {(v["kind"], v["system"], v["iteration"]): v for v in samples.collect(work, **more)["views"]}


@pytest.mark.fast
def test_a_chain_has_every_text(folder):
    work = workfolder.read(folder)
    found = views(work)
    assert list(found) == [("heldout", "ILF", None), ("heldout", "random refinement", None),
                           ("training", "ILF", 1), ("training", "ILF", 2)]
    first, second = work.iterations[1:]
    sample = found["training", "ILF", 1]["samples"][0]
    drafts, drawn, scored = (first.rows(stage)["t0"] for stage in ("draft", "refine", "score"))
    assert (sample["id"], sample["draft"], sample["feedback"]) == ("t0", drafts.text, "Leave out “storm”.")
    assert [c["text"] for c in sample["candidates"]] == drawn.texts
    assert [c["chosen"] for c in sample["candidates"]].index(True) == scored.chosen
    assert [c["score"] for c in sample["candidates"]] == pytest.approx(scored.scores, rel=1e-5)
    assert sample["candidates"][1]["also"] == ["random"] and sample["candidates"][-1]["cut_off"]
    assert sample["new_draft"] == second.rows("draft")["t0"].text and sample["new_draft_iteration"] == 2
    assert "new_draft" not in found["training", "ILF", 2]["samples"][0]
    outputs = found["heldout", "ILF", None]["samples"][3]["outputs"]
    assert [o["iteration"] for o in outputs] == [0, 1, 2] and all(o["cut_off"] for o in outputs)
    assert [o["value"] for o in outputs] == pytest.approx([0.63, 0.43, 0.23])


@pytest.mark.fast
def test_the_cap_is_shared_and_the_choice_is_the_same_everywhere(folder):
    work = workfolder.read(folder)
    few = views(work, most=14)
    assert [len(v["samples"]) for v in few.values()] == [4, 4, 3, 3]
    assert [v["of"] for v in few.values()] == [9, 9, 12, 12]
    first, second = (few["training", "ILF", k]["samples"] for k in (1, 2))
    ids = [sample["id"] for sample in first]
    assert ids == [sample["id"] for sample in second] == sorted(ids, key=lambda i: int(i[1:]))
    assert views(work, most=14) == few


@pytest.mark.fast
def test_failures_are_always_among_what_is_shown(folder):
    declare(folder, {"insult_rate": "lower", "well_formed": "higher"})
    work = workfolder.read(folder)
    before, after = (work.iterations[k].rows("evaluate") for k in (0, -1))
    for key, output in after.items():
        before[key] = dataclasses.replace(before[key], values={"insult_rate": 1.0, "well_formed": 1.0})
        after[key] = dataclasses.replace(output, values={"insult_rate": float(key == "h4"),
                                                         "well_formed": float(key != "h7")})
    held_out = views(work, most=12)["heldout", "ILF", None]
    assert len(held_out["samples"]) == 3 < held_out["of"] and held_out["worst"]
    worst, second, *_ = sorted(held_out["samples"], key=lambda sample: sample["worst"])
    assert (worst["id"], worst["score"], worst["worse"]) == ("h4", 1.0, [])  # the leading metric first
    assert (second["id"], second["score"], second["worse"]) == ("h7", 0.0, ["well formed"])


@pytest.mark.fast
def test_without_a_direction_none_is_worst(folder):
    held_out = views(workfolder.read(folder))["heldout", "ILF", None]
    assert not held_out["worst"] and all(s["worst"] is None and s["worse"] == [] for s in held_out["samples"])


@pytest.mark.fast
def test_random_numbers_are_not_shown_as_scores(folder):
    """An arm that picks at random: the run's scores of the same texts, or none."""
    run = folder / "baselines" / "random"
    files.write_json(run / "config.json", files.read_sealed(run / "config.json") | {"score": {"method": "random"}})
    for stage in ("draft", "refine"):
        shutil.copytree(folder / "iteration_001" / stage, run / "iteration_001" / stage)
    work = workfolder.read(folder)
    own = work.iterations[1].rows("score")
    drawn = work.iterations[1].rows("refine")
    shutil.copytree(folder / "iteration_001" / "feedback", run / "iteration_001" / "feedback")
    write_stage(run / "iteration_001" / "draft", [
        dataclasses.replace(row, text="another draft") if key == "t2" else row
        for key, row in work.iterations[1].rows("draft").items()])
    write_stage(run / "iteration_001" / "score", [records.Scored(key, [0.123] * 6, 2, {}) for key in own])
    write_stage(run / "iteration_001" / "refine",
                [dataclasses.replace(row, texts=[f"{row.texts[0]} x", *row.texts[1:]]) if key == "t1" else row
                 for key, row in drawn.items()])
    view = views(workfolder.read(folder))["training", "random refinement", 1]
    by_id = {s["id"]: s for s in view["samples"]}
    assert view["score"] == "ILF's score" and by_id["t2"]["score"] is None
    assert [c["score"] for c in by_id["t0"]["candidates"]] == pytest.approx(own["t0"].scores, rel=1e-5)
    assert by_id["t0"]["candidates"][2]["chosen"]
    assert by_id["t0"]["score"] == pytest.approx(own["t0"].scores[2], rel=1e-5)
    assert {c["score"] for c in by_id["t1"]["candidates"]} == {by_id["t1"]["score"]} == {None}


@pytest.mark.fast
def test_bytes_are_capped(folder):
    whole = samples.collect(workfolder.read(folder), most_bytes=20_000)
    size = sum(len(samples.script_json(s)) for v in whole["views"] for s in v["samples"])
    size += sum(len(samples.script_json({i: d})) for of_kind in whole["documents"].values() for i, d in of_kind.items())
    assert 10_000 < size <= 20_000


def test_five_hundred_long_samples_stay_under_three_megabytes(tmp_path):
    path = make_run(tmp_path / "run", iterations=1, count=3)
    long = "A <b>word</b> & another. " * 2000
    examples = [records.Example(f"x{i}", f"{i} {long}") for i in range(600)]
    folder = path / "iteration_001"
    (folder / "examples.jsonl").write_text("".join(json.dumps(records.to_json(e)) + "\n" for e in examples))
    for stage in ("feedback", "refine", "score"):
        shutil.rmtree(folder / stage)
    write_stage(folder / "draft", [records.Draft(e.id, f"{e.id} {long}", "policy") for e in examples])
    page = html_report.build_report(path)
    assert page.stat().st_size < 3_000_000
    text = page.read_text()
    assert "more characters in the work folder]" in text and "</b>" not in text.partition('id="data">')[2].partition(
        "</script>")[0]


@pytest.mark.fast
def test_records_that_a_baseline_shares_are_not_shown_twice(folder):
    run = folder / "baselines" / "random" / "iteration_001"
    for stage in ("draft", "refine"):
        shutil.copytree(folder / "iteration_001" / stage, run / stage)
        manifest = files.read_sealed(run / stage / "manifest.json")
        shared = {RECORDS_IN: f"../../../../iteration_001/{stage}"}
        files.write_json(run / stage / "manifest.json", manifest | shared)
    assert ("training", "random refinement", 1) not in views(workfolder.read(folder))
    files.write_json(run / "refine" / "manifest.json", manifest)  # its own refinements
    assert ("training", "random refinement", 1) in views(workfolder.read(folder))


@pytest.mark.fast
def test_share_of_words_that_changed():
    assert samples.changed("a b c d", "a b c d") == samples.changed("", "") == 0
    assert samples.changed("a b", "c d") == samples.changed("", "new") == 1
    assert samples.changed("a b c d", "a b c e") == 0.25


@pytest.mark.fast
def test_metrics_as_csv(folder):
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"iteration": 1, "stage": "score", "metric": '=cmd("x"),1', "value": 0.5}) + "\n")
    rows = list(csv.DictReader(io.StringIO(html_report.metrics_csv(workfolder.read(folder)))))
    assert {row["system"] for row in rows} == {"ILF", "random refinement"}
    row = next(r for r in rows if (r["system"], r["iteration"], r["metric"]) == ("ILF", "2", "insult_rate"))
    assert (row["stage"], float(row["stderr"]), row["n"]) == ("evaluate", 0.02, "12")
    assert float(row["value"]) == pytest.approx(0.2)
    assert any(row["metric"] == "'=cmd(\"x\"),1" for row in rows)  # no formula
