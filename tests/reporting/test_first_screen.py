"""What frames the verdict: what was taught to whom, names explained once, and commands that go on from here."""

import dataclasses
import shlex

import pytest
from made_up_runs import declare, make_run

from ilf_jax.reporting import explanations, first_screen, glossary, html_report, workfolder
from ilf_jax.runtime import files

pytestmark = pytest.mark.fast


@pytest.fixture
def work(tmp_path):
    path = make_run(tmp_path / "my run")
    declare(path, {"insult_rate": "lower"})
    files.write_json(path / "config.json", files.read_sealed(path / "config.json") | {
        "judge": {"checkpoint": "policy"}, "refiner": {"checkpoint": "init:tiny<&>"}, "data": {"source": "csv:a.csv"},
        "feedback": {"source": "oracle", "control": ""}})
    return workfolder.read(path)


def test_what_was_taught_to_whom(work):
    assert first_screen.about(work) == (
        "Taught: to describe people without insults. Policy and refiner init:tiny<&>; judge the policy itself. 12 "
        "documents of csv:a.csv in each of 2 iterations, feedback by the task's own program. 9 held-out documents. One "
        "seed, 0: the intervals do not cover how runs vary.")
    shuffled = dataclasses.replace(work, config=work.config | {
        "task": "file:a/b.py:MyTask", "feedback": {"source": "human", "control": "shuffled"}})
    assert "Taught: the task MyTask." in first_screen.about(shuffled)
    assert "another document's feedback by people" in first_screen.about(shuffled)
    assert first_screen.about(dataclasses.replace(work, config={}, iterations=[])) == ""


@pytest.mark.parametrize(("command", "workdir"), [
    ("python -m ilf_jax.main --config=a.py --workdir=runs/x", "runs/x"),
    ("ilf-jax run --workdir 'runs/a b'", "runs/a b"),
    ("python own_script.py", None), ("ilf-jax run --workdir", None), ("a 'cut off", None)])
def test_next_steps_name_the_folder_as_the_run_did(work, command, workdir):
    started = dataclasses.replace(work, starts=[{"command": command}])
    place = workdir or str(work.path)
    policy, export, control = first_screen.next_steps(started)
    assert f"{place}/iteration_002/checkpoint" in policy.what
    assert shlex.split(policy.command)[:3] == ["ilf-jax", "generate", f"--workdir={place}"]
    assert shlex.split(export.command) == ["ilf-jax", "export", f"--workdir={place}", f"--out={place}_exported"]
    assert "--config.feedback.control=shuffled" in control.what and "--config=methods" in control.command


def test_no_step_that_cannot_be_done(work):
    assert first_screen.next_steps(dataclasses.replace(work, iterations=work.iterations[:1])) == []
    own = dataclasses.replace(work, config=work.config | {"task": "summarize"})
    assert first_screen.next_steps(own)[-1].command == ""
    control = dataclasses.replace(work, config=work.config | {"feedback": {"source": "oracle", "control": "shuffled"}})
    with_control = dataclasses.replace(work, baselines={"ILF-shuffled": control})
    assert len(first_screen.next_steps(with_control)) == len(first_screen.next_steps(control)) == 2


def test_a_name_is_explained_once(work):
    known = glossary.Glossary(work)
    assert known.explain("evaluate", ["insult_rate", "insult_rate[a]", "mean_words"]) == [
        ("insult rate", "share of texts with an insult")]
    assert known.explain("draft", ["insult_rate", "stop_rate"])[0][0] == "stop rate"
    assert "faults that it left out stay" in glossary.meaning(work, "score", "exact_match_chosen")
    assert glossary.meaning(work, "evaluate", "exact_match") == "share of outputs equal to the reference"
    name, meaning = explanations.of_scorer(work)
    assert name == "instruct_rm" and meaning.endswith("on average over the questions")
    page = html_report.render(work)
    assert page.count("share of texts with an insult") == 1
    assert page.count("<b>exact match</b>") == 0 and "Exact match of the picked refinements (equal to" in page
