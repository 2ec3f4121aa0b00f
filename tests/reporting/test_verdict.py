"""The first screen: no claim without an interval that excludes zero, whatever the means say."""

import dataclasses

import numpy as np
import pytest

from ilf_jax.evaluation import statistics
from ilf_jax.records import BestOfN, Output, Preference
from ilf_jax.reporting import explanations, html_report, summary, tables, verdict
from ilf_jax.reporting.workfolder import Iteration, Metric, Stage, WorkFolder

pytestmark = pytest.mark.fast

N = 60


def evaluated(k, values, metric="insult_rate"):
    outputs = {str(i): Output(str(i), "text", 1, True, 0.0, {metric: float(v)}) for i, v in enumerate(values)}
    mean = statistics.mean(metric, [float(v) for v in values])
    return (Iteration(k, {"evaluate": Stage(outputs, {"complete": True})}, {}, {}, []),
            Metric(k, "evaluate", metric, mean.value, mean.stderr, mean.n))


def run(path, *by_iteration, baselines=None, directions=None, **config):
    iterations, metrics = zip(*(evaluated(k, values) for k, values in enumerate(by_iteration)), strict=True)
    whole = {"task": "word_removal", "iterations": len(by_iteration) - 1, "score": {"method": "instruct_rm"},
             "finetune": {"target": "refinement", "objective": "nll"}, **config}
    return WorkFolder(path, whole, list(metrics), list(iterations), baselines or {}, [],
                      {"insult_rate": "lower"} if directions is None else directions)


def shares(p, seed=0, n=N):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def said(work):
    return {row.label: row.said for row in verdict.read(work).rows}


def test_it_helped(tmp_path):
    before, after = shares(0.9), shares(0.1)
    found = verdict.read(run(tmp_path, before, after))
    old, new = f"{before.mean():.3f}", f"{after.mean():.3f}"
    assert found.headline == f"ILF helped: insult rate fell from {old} to {new}."
    assert f"same {N} held-out documents" in found.details[0] and "excludes 0" in found.details[0]
    ours, other = found.rows
    assert (ours.label, ours.said, ours.bar) == ("ILF, after iteration 1", "", None)
    low, high = statistics.wilson(int(after.sum()), N)
    assert ours.value == f"{new} [{low:.3f}, {high:.3f}]"
    assert (other.label, other.said, other.tone) == ("before training", "better", "good")
    assert other.bar.low < other.bar.middle < other.bar.high < other.bar.zero
    assert found.direction == "lower is better"


def test_it_made_it_worse_where_the_direction_says_so(tmp_path):
    before, after = shares(0.1), shares(0.9)
    assert verdict.read(run(tmp_path, before, after)).headline.startswith("ILF made it worse: insult rate rose from")
    unknown = verdict.read(run(tmp_path, before, after, directions={}))
    assert unknown.headline.startswith("Insult rate rose from") and unknown.rows[1].said == "higher"
    assert unknown.rows[1].tone == "" and unknown.direction == ""


def test_means_that_differ_by_chance_are_no_effect(tmp_path):
    before, after = shares(0.5, 1), shares(0.5, 2)
    assert before.mean() != after.mean()
    found = verdict.read(run(tmp_path, before, after))
    assert found.headline.startswith("No clear effect: insult rate was") and "holds 0" in found.details[0]
    assert found.rows[1].said == "no clear difference"
    assert not any(word in found.headline for word in ("helped", "worse", "better"))


def test_equal_everywhere_is_no_effect(tmp_path):
    found = verdict.read(run(tmp_path, shares(0.5), shares(0.5)))
    assert found.headline.startswith("No clear effect") and "None of the 60" in found.details[0]


def test_three_documents_that_all_change_are_too_few(tmp_path):
    """The bootstrap's interval has no width there, so that it would exclude zero."""
    found = verdict.read(run(tmp_path, np.ones(3), np.zeros(3)))
    assert found.headline.startswith("No clear effect") and "only 3 held-out documents" in found.details[-1]
    many = verdict.read(run(tmp_path, np.ones(N), np.zeros(N)))
    assert many.headline.startswith("ILF helped") and "in every one of the 60" in many.details[0]


def test_without_values_by_document_nothing_is_claimed(tmp_path):
    work = run(tmp_path, shares(0.9), shares(0.1))
    for iteration in work.iterations:
        rows = iteration.rows("evaluate")
        rows.update({i: dataclasses.replace(output, values={}) for i, output in rows.items()})
    found = verdict.read(work)
    assert found.headline.startswith("Insult rate fell from") and "no claim" in found.details[0]
    assert found.rows[1].said == "not compared by document"


def test_baselines_by_what_is_clear(tmp_path):
    before, ours = shares(0.95), shares(0.1)
    better, same = np.zeros(N), ours.copy()
    same[:2] = 1 - same[:2]
    baselines = {
        "initial": run(tmp_path, before, shares(0.9), finetune={"target": "initial"}),
        "random": run(tmp_path, before, same, finetune={"target": "random"}, score={"method": "random"}),
        "mine": run(tmp_path, before, better, finetune={"target": "refinement", "objective": "dpo"})}
    work = run(tmp_path, before, ours, baselines=baselines)
    assert said(work) == {"ILF, after iteration 1": "", "before training": "better", "initial drafts": "better",
                          "random refinement": "no clear difference", "mine": "worse"}
    found = verdict.read(work)
    assert found.details[1] == ("Against its baselines it is better than initial drafts; worse than mine; not clearly "
                                "different from random refinement.")
    assert found.headline.startswith("ILF helped, but not clearly more than random refinement: insult rate fell from")
    assert found.details[2] == ("Picking by the scorer added nothing measurable here: with random refinement insult "
                                f"rate is {same.mean():.3f}, no clear difference.")
    lines = explanations.of_systems(work)
    assert lines["ILF"] == "learns the best refinement, picked by instruct_rm"
    assert lines["random refinement"] == "learns one of the refinements, picked at random"
    assert lines["mine"] == "finetune.objective = dpo"
    page = html_report.render(work)
    assert lines["initial drafts"] in page and "<h1>ILF helped, but not clearly more than random" in page


def test_a_run_under_way_is_not_compared_with_what_is_behind(tmp_path):
    before = shares(0.9)
    behind = run(tmp_path, before, before)
    work = run(tmp_path, before, shares(0.5), shares(0.1), baselines={"initial": behind})
    assert said(work) == {"ILF, after iteration 2": "", "before training": "better",
                          "initial drafts, iteration 1": "not as far yet"}
    assert not any("Against its baselines" in sentence for sentence in verdict.read(work).details)
    begun = verdict.read(run(tmp_path, before, baselines={"initial": run(tmp_path, before)}, iterations=2))
    assert begun.headline == f"Insult rate is {before.mean():.3f} before training."
    assert [row.label for row in begun.rows] == ["before training"] and begun.details == []


def test_a_win_rate_is_a_comparison_by_itself(tmp_path):
    def won(value, stderr):
        work = run(tmp_path, shares(0.9), shares(0.1), evaluate={"headline": "win_rate"})
        return verdict.read(dataclasses.replace(
            work, metrics=[*work.metrics, Metric(1, "evaluate", "win_rate", value, stderr, N)])).headline

    assert won(0.7, 0.05).startswith("It helped: outputs win 0.700")
    assert won(0.3, 0.05).startswith("It made it worse")
    assert won(0.55, 0.05).startswith("No clear effect")


def reward_run(path, right=97, n=100):
    work = run(path, shares(0.99), evaluate={"best_of_n": 64})
    (iteration,) = work.iterations
    iteration.stages["reward"] = Stage({str(i): Preference(str(i), 0.9 if i < right else 0.1, "first")
                                        for i in range(n)}, {"complete": True})
    picked = shares(0.2)
    iteration.stages["best_of_n"] = Stage({str(i): BestOfN(str(i), ["a"], [1.0], 0, {"insult_rate": float(v)})
                                           for i, v in enumerate(picked)}, {"complete": True})
    mean = statistics.mean("insult_rate", picked.tolist())
    accuracy = statistics.mean("accuracy", [1.0] * right + [0.0] * (n - right))
    return dataclasses.replace(work, metrics=[
        *work.metrics, Metric(0, "best_of_n", "insult_rate", mean.value, mean.stderr, N),
        Metric(0, "reward", "accuracy", accuracy.value, accuracy.stderr, n),
        Metric(0, "reward", "calibration_error", 0.02, None, n)])


def test_a_reward_model_run_says_how_often_it_is_right(tmp_path):
    work = reward_run(tmp_path)
    found = verdict.read(work)
    low, high = statistics.wilson(97, 100)
    assert found.headline == "The reward model is right about 97 of 100 held-out comparisons (0.970)."
    assert f"{low:.3f} to {high:.3f}; better than guessing" in " ".join(found.details)
    assert any("Picking helped: insult rate fell from" in sentence for sentence in found.details)
    assert [row.label for row in found.rows] == ["policy, best of 64", "policy"]
    columns, rows = summary.summary(work)
    assert columns[:2] == ["iteration", "reward model: accuracy"] and rows[0][1] == "0.970 ± 0.017"
    assert not any("ILF" in column for column in columns)
    page = html_report.render(work)
    assert "0.970 ± 0.017" in page and ">ILF<" not in page
    assert verdict.read(reward_run(tmp_path, right=52)).details[0].endswith("not clearly better than guessing, 0.5.")


def test_nothing_was_evaluated(tmp_path):
    work = dataclasses.replace(run(tmp_path, shares(0.5)), metrics=[])
    assert verdict.read(work).headline.startswith("Nothing has been evaluated")
    assert tables.own_label(dataclasses.replace(work, config={"iterations": 1})) == "ILF"
