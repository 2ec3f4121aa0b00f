"""`ilf-jax review`: what it refuses, files in and out, work folders in a bucket, and the learner's answers."""

import json
import pathlib
import subprocess
import sys
import time

import pytest
from test_page_safety import HOST, Page, serving_module

from ilf_jax.data import reviewed
from ilf_jax.errors import InputError
from ilf_jax.evaluation.agreement import Agreement
from ilf_jax.review.desk import Desk
from ilf_jax.review.entries import Entry, Form
from ilf_jax.review.learner import Colors
from ilf_jax.review.rounds import of_run
from ilf_jax.review.store import RefusedError, Store
from ilf_jax.runtime import files, storage

ROWS = [{"id": f"d{i}", "document": f"document {i}", "draft": f"draft {i}", "feedback": ""} for i in range(3)]


def call(*arguments):
    return subprocess.run([sys.executable, "-m", "ilf_jax.review", *map(str, arguments)], check=False, timeout=200,
                          capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def wait(folder, iteration, *rows):
    stage = folder / f"iteration_{iteration:03d}" / "feedback"
    stage.mkdir(parents=True)
    (stage / "to_review.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def eventually(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("not within a minute")


def go_on(folder, iteration):
    files.write_json(folder / f"iteration_{iteration:03d}/feedback/manifest.json", {"complete": True})


def waiting_run(folder, **config):
    """A work folder as a run leaves it that waits for feedback."""
    files.write_json(folder / "config.json", config)
    wait(folder, 1, *ROWS)
    return folder


def test_reviews_of_a_file_reach_the_run(tmp_path):
    folder = waiting_run(tmp_path / "run")
    path = tmp_path / "said.csv"
    path.write_text("id,feedback,status\nd0,Too long.,\nd1,,skipped\n")
    done = call(f"--workdir={folder}", f"--import={path}")
    assert (done.returncode, done.stdout) == (0, f"{path}: 2 reviews put in\n"), done.stderr
    rows = [json.loads(line) for line in (folder / "iteration_001/feedback/reviews.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"], row["feedback"]) for row in rows] == [
        ("d0", "submitted", "Too long."), ("d1", "skipped", "")]
    path.write_text("id,feedback\nd0,Other.\n")
    done = call(f"--workdir={folder}", f"--import={path}")
    assert done.returncode == 2 and f"error: {path}:2: 'file' has reviewed 'd0' already" in done.stderr


@pytest.fixture
def flags(monkeypatch):
    serving = serving_module()

    def set_flags(**values):
        from types import SimpleNamespace

        defaults = {"workdir": None, "data": None, "pairs": None, "state": None, "fields": [], "encoding": ""}
        for name, value in {**defaults, **values}.items():
            monkeypatch.setattr(serving, f"_{name.upper()}", SimpleNamespace(value=value))
        return serving

    return set_flags


@pytest.mark.fast
def test_a_bucket_needs_a_local_folder_for_the_store(flags, tmp_path):
    bucket = storage.path("gs://bucket/run")
    with pytest.raises(InputError, match=r"is in a bucket, .* name a local folder .* --state=DIR"):
        flags(workdir=str(bucket))._state_folder(bucket)
    with pytest.raises(InputError, match="--state=s3://b/x: the store is a database"):
        flags(state="s3://b/x")._state_folder(bucket)
    assert flags(state=str(tmp_path))._state_folder(bucket) == tmp_path
    assert flags(data=str(tmp_path / "a.jsonl"))._state_folder(None) == tmp_path / "a.jsonl.review"


@pytest.mark.fast
def test_a_run_that_does_not_wait_is_told(flags, tmp_path):
    with pytest.raises(InputError, match="is not a work folder"):
        of_run(tmp_path)
    files.write_json(tmp_path / "config.json", {})
    with pytest.raises(InputError, match=r"does not wait for feedback; start it with --config.feedback.source=human"):
        flags(workdir=str(tmp_path))._rounds(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"--fields=drft=x: write FIELD=PATH; fields are id, document, draft, title"):
        flags(fields=["drft=x"])._fields()


@pytest.mark.fast
def test_a_baselines_drafts_are_reviewed_on_the_runs_page(flags, tmp_path):
    """A baseline has drafts of its own from the second iteration on; its run reaches it once it is done itself."""
    run = waiting_run(tmp_path / "run")
    baseline = run / "baselines" / "random"
    loaded = []

    def load(run):
        loaded.append((run.workdir, run.iteration))
        return TwoRefinements()

    store = Store(tmp_path / "review.sqlite", Form())
    desk = Desk(store, flags(workdir=str(run))._rounds(run, run), workdir=run, load_learner=load)
    for item in store.items():
        store.act(item, "ann", Entry("x"), "submit", base=0, token="t", seconds=1)
    assert desk.still_needed() == 0
    go_on(run, 1)
    assert desk.still_needed() is None  # not yet
    files.write_json(baseline / "config.json", {"feedback.min_reviewed": 0.5})
    wait(baseline, 2, *({**row, "draft": f"the baseline's {row['draft']}"} for row in ROWS))
    page = Page(tmp_path, desk=desk).entered()
    assert "random, iteration_002: 0 of 3 items are submitted" in page.get("/progress").text
    assert [item.draft for item in desk.items()] == [f"the baseline's draft {i}" for i in range(3)]
    assert desk.still_needed() == 2
    store.act(store.item(4), "ann", Entry("Its own."), "submit", base=0, token="t", seconds=1)
    desk.outbox.note(4)
    (row,) = map(json.loads, (baseline / "iteration_002/feedback/reviews.jsonl").read_text().splitlines())
    assert (row["id"], row["feedback"]) == ("d0", "Its own.")
    eventually(lambda: desk.learner is not None)
    assert loaded == [(run, 1), (baseline, 2)]
    with pytest.raises(RefusedError, match="no longer waits for this item"):
        desk.learner_of(store.item(1))
    assert desk.learner_of(store.item(4)) is desk.learner
    desk.close()
    store.close()


@pytest.mark.fast
def test_a_baselines_folder_leads_to_its_run(tmp_path):
    run = tmp_path / "run"
    baseline = waiting_run(run / "baselines" / "random")
    files.write_json(run / "config.json", {})
    assert reviewed.run_of(baseline) == run == reviewed.run_of(run)
    assert reviewed.run_of(run / "baselines" / "random" / "deeper") == run / "baselines" / "random" / "deeper"


class TwoRefinements:
    """Stands for a loaded model: what the page does with its answers is tested here, the answers in test_learner."""

    warmed = ()

    def refinements(self, item, feedback):
        yield f"one of {item.key} for {feedback}"
        if feedback == "long":
            raise InputError("does not fit")
        yield "two"

    def colors(self, item, feedback):
        return Colors([item.draft], [-0.5], -0.5)

    def warm_up(self, items):
        self.warmed = [item.key for item in items]


def learning_desk(folder, learner, **more):
    store = Store(folder / "review.sqlite", Form())
    return Desk(store, [of_run(folder)], workdir=folder, load_learner=lambda run: learner, **more)


@pytest.mark.fast
def test_the_learners_answers(tmp_path):
    def ask(path, feedback):
        return browser.post(f"/items/1/{path}", headers={"content-type": "application/json"},
                            content=json.dumps({"entry": {"feedback": feedback}}))

    page = Page(tmp_path)
    browser = page.entered()
    assert ask("refine", "x").status_code == 422 and 'id="learner"' not in browser.get("/items/1").text
    page.close()
    page = Page(tmp_path, desk=learning_desk(waiting_run(tmp_path / "run"), TwoRefinements()))
    browser = page.entered()
    assert 'id="learner"' in browser.get("/items/1").text
    assert [json.loads(line) for line in ask("refine", "so").text.splitlines()] == [
        {"text": "one of d0 for so"}, {"text": "two"}]
    assert json.loads(ask("refine", "long").text.splitlines()[-1]) == {"error": "does not fit"}
    assert ask("colors", "so").json() == {"tokens": ["draft 0"], "values": [-0.5], "mean": -0.5}
    page.desk.learner = None
    assert "are being loaded" in ask("refine", "so").json()["error"]
    page.close()


@pytest.mark.fast
def test_the_learner_works_ahead(tmp_path):
    """Of every open draft: whatever its length, nobody who asks waits for a compiler. With --order=gain it draws."""
    learner = TwoRefinements()
    learner.gain = lambda item: 0.25
    for by_gain in (False, True):
        desk = learning_desk(waiting_run(tmp_path / str(by_gain)), learner, by_gain=by_gain)
        eventually(lambda: all(item.gain == 0.25 for item in desk.items()) if by_gain else learner.warmed)  # noqa: B023
        desk.close()
        desk.store.close()
    assert learner.warmed == ["d0", "d1", "d2"]


@pytest.mark.fast
def test_figures_of_several_reviewers(tmp_path):
    page = Page(tmp_path, overlap=2)
    for name, said in (("ann", ("coverage", "accuracy")), ("bob", ("coverage", "coverage"))):
        for number, category in zip((1, 3), said, strict=True):
            page.store.act(page.store.item(number), name, Entry("x", category=category), "submit", base=0, token="t",
                           seconds=60 * number)
    figures = page.desk.figures()
    assert figures["classes"] == [("coverage", 3), ("accuracy", 1)] and figures["times"]["feedback"][1] == 90
    assert [(of, label) for of, label, found in figures["agreements"] if isinstance(found, Agreement)] == [
        ("classes", "Krippendorff's alpha"), ("classes", "Cohen's kappa")]
    text = page.entered().get("/progress").text
    assert "Krippendorff&#39;s alpha" in text and HOST not in text
    assert page.entered("cid").get("/adjudicate").text.count("Choose this one") == 2
    page.close()


@pytest.mark.fast
def test_what_the_run_still_needs(tmp_path):
    folder = waiting_run(tmp_path / "run")
    store = Store(tmp_path / "review.sqlite", Form())
    desk = Desk(store, [of_run(folder)], workdir=folder)
    assert desk.still_needed() == 3
    store.act(store.item(1), "ann", Entry("x"), "submit", base=0, token="t", seconds=1)
    store.act(store.item(2), "ann", Entry(), "skip", base=0, token="t", seconds=1)
    assert desk.still_needed() == 1
    desk.close()
    files.write_json(folder / "config.json", {"feedback.min_reviewed": 0.5})
    half = Desk(store, [of_run(folder)], workdir=folder)
    assert half.still_needed() == 0
    half.close()
    store.close()


@pytest.mark.fast
def test_a_run_that_went_on_is_not_to_be_continued(tmp_path):
    folder = waiting_run(tmp_path / "run")
    store = Store(tmp_path / "review.sqlite", Form())
    desk = Desk(store, [of_run(folder)], workdir=folder)
    page = Page(tmp_path, desk=desk).entered()
    button = '<button type="button" id="continue" disabled'
    for number in (1, 2, 3):
        assert button in page.get("/progress").text
        store.act(store.item(number), "ann", Entry("x"), "submit", base=0, token="t", seconds=1)
    assert button not in page.get("/progress").text
    go_on(folder, 1)
    assert desk.still_needed() is None
    text = page.get("/progress").text
    assert button in text and "does not wait for feedback" in text
    wait(folder, 2, {**ROWS[0], "draft": "later"})  # somebody started the command again
    assert desk.still_needed() == 1 and [r.name for r in desk.rounds] == ["iteration_002"]
    (folder / "iteration_002/feedback/manifest.json").write_text("{")
    assert page.get("/progress").status_code == 500
    desk.close()
    store.close()
