"""What stands beside the verdict: ties, floors, better iterations, what got worse, feedback that asks for nothing."""

import dataclasses

import numpy as np
import pytest

from ilf_jax.evaluation import statistics
from ilf_jax.records import Candidates, Draft, Feedback, Output, Scored
from ilf_jax.reporting import remarks, verdict
from ilf_jax.reporting.workfolder import Iteration, Metric, Stage, WorkFolder

pytestmark = pytest.mark.fast

N = 60


def evaluated(k, by_metric):
    of_documents = [{name: float(values[i]) for name, values in by_metric.items()} for i in range(N)]
    outputs = {str(i): Output(str(i), "text", 1, True, 0.0, values) for i, values in enumerate(of_documents)}
    means = {name: statistics.mean(name, [float(v) for v in values]) for name, values in by_metric.items()}
    return (Iteration(k, {"evaluate": Stage(outputs, {"complete": True})}, {}, {}, []),
            [Metric(k, "evaluate", name, mean.value, mean.stderr, mean.n) for name, mean in means.items()])


def run(path, *insults, well_formed=None, baselines=None, **config):
    """A run of which each iteration has these shares, of the first documents."""
    whole = {"task": "word_removal", "iterations": len(insults) - 1, "score": {"method": "instruct_rm"},
             "finetune": {"target": "refinement"}, "feedback": {"control": ""}, **config}
    made = [evaluated(k, {"insult_rate": first(share), "well_formed": first(form)})
            for k, (share, form) in enumerate(zip(insults, well_formed or [1.0] * len(insults), strict=True))]
    metrics = [metric for _, of_iteration in made for metric in of_iteration]
    return WorkFolder(path, whole, metrics, [iteration for iteration, _ in made], baselines or {}, [],
                      {"insult_rate": "lower", "well_formed": "higher"})


def first(share):
    return (np.arange(N) < share * N).astype(float)


@pytest.mark.parametrize(("differs", "lesson"), [
    ({"finetune": {"target": "random"}}, "Picking by the scorer added nothing measurable here"),
    ({"finetune": {"target": "initial"}}, "Learning from refinements added nothing measurable here"),
    ({"feedback": {"control": "shuffled"}}, "What the feedback said made no measurable difference here"),
    ({"finetune": {"target": "reference"}}, ""),
    ({"feedback": {"control": "shuffled"}, "finetune": {"target": "random"}}, "")])
def test_a_tie_says_what_added_nothing(tmp_path, differs, lesson):
    work = run(tmp_path, 0.9, 0.1, baselines={"other": run(tmp_path, 0.9, 0.1, **differs)})
    found = verdict.read(work)
    assert found.headline.startswith("ILF helped, but not clearly more than other" if lesson else "ILF helped:")
    assert any(sentence.startswith(f"{lesson}: with other insult rate is 0.100") for sentence in found.details) == bool(
        lesson)


def test_where_nothing_helped_no_part_is_blamed(tmp_path):
    baselines = {"random": run(tmp_path, 0.9, 0.9, finetune={"target": "random"})}
    found = verdict.read(run(tmp_path, 0.9, 0.9, baselines=baselines))
    assert found.headline.startswith("No clear effect") and len(found.details) == 2


def test_a_floor_cannot_tell_apart(tmp_path):
    def tie(ours, theirs):
        baselines = {"random": run(tmp_path, 0.9, theirs, finetune={"target": "random"})}
        return " ".join(verdict.read(run(tmp_path, 0.9, ours, baselines=baselines)).details)

    assert "too, insult rate is at its floor, where it cannot tell them apart any more" in tie(0.0, 0.0)
    assert "floor" not in tie(0.1, 0.1) and "ceiling" not in tie(0.1, 0.1)
    assert "nothing measurable" not in tie(0.0, 0.5)


def test_which_iteration_is_the_best(tmp_path):
    def said(*shares):
        return remarks.of_iterations(run(tmp_path, 0.9, *shares), "insult_rate")

    assert said(0.5) == ""
    assert said(0.5, 0.1) == "Shown is the last iteration, 2, the best of 2."
    assert said(0.1, 0.1, 0.1) == "Shown is the last iteration, 3; iteration 1 was as good: 0.100."
    assert said(0.1, 0.8) == "Shown is the last iteration, 2; iteration 1 was better: 0.100, a clear difference."
    assert said(0.1, 0.1 + 1 / N).endswith("0.100, no clear difference.")


def test_only_what_clearly_got_worse_is_listed(tmp_path):
    assert remarks.of_losses(run(tmp_path, 0.9, 0.1, well_formed=[1.0, 0.75]), "insult_rate") == (
        "What got worse: well formed (1.000 before, 0.750 now).")
    one = 1 - 1 / N  # one document fewer is chance
    assert remarks.of_losses(run(tmp_path, 0.9, 0.1, well_formed=[1.0, one]), "insult_rate") == ""
    assert remarks.of_losses(run(tmp_path, 0.1, 0.9), "insult_rate") == ""  # the leading one: the verdict says it


def test_feedback_that_asks_for_nothing(tmp_path):
    work = run(tmp_path, 0.9, 0.1, 0.1, feedback={"source": "oracle", "control": ""})
    for iteration, content in zip(work.iterations[1:], (0, 3), strict=True):
        ids = [str(i) for i in range(4)]
        texts = ["kept" if i < content else "changed" for i in range(4)]
        iteration.stages.update({
            "draft": Stage({i: Draft(i, "kept", "policy") for i in ids}, {}),
            "feedback": Stage({i: Feedback(i, "Nothing to remove." if int(i) < content else "Remove it.", "oracle")
                               for i in ids}, {}),
            "refine": Stage({i: Candidates(i, ["other", text], [0.0] * 2, [1] * 2, [True] * 2)
                             for i, text in zip(ids, texts, strict=True)}, {}),
            "score": Stage({i: Scored(i, [0.0, 1.0], 1, {}) for i in ids}, {})})
    assert remarks.of_copies(work) == ("Feedback that asked for nothing, so that the policy imitates its own draft: "
                                       "0 % in iteration 1, 75 % in iteration 2.")
    assert remarks.of_copies(work) in verdict.read(work).notes
    by_people = dataclasses.replace(work, config={**work.config, "feedback": {"source": "human"}})
    assert remarks.of_copies(by_people) == ("Picks that equal their draft, so that the policy imitates it: 0 % in "
                                            "iteration 1, 75 % in iteration 2.")
    del work.iterations[2]
    assert remarks.of_copies(work) == remarks.of_copies(by_people) == ""
