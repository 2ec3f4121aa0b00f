"""The table of methods: paired differences, controls, seeds; from the files of finished runs."""

import dataclasses

import numpy as np
import pytest

from ilf_jax.records import Output
from ilf_jax.reporting import html_report, methods, tables, workfolder
from ilf_jax.reporting.workfolder import Iteration, Metric, Stage, WorkFolder

N = 60


def run(path, values, control="", objective="nll", tokens=1000.0, kl=0.5, baselines=None):
    outputs = {str(i): Output(str(i), "text", 1, True, 0.0, {"insult_rate": v}) for i, v in enumerate(values)}
    share = float(np.mean(values))
    config = {"task": "word_removal", "iterations": 1, "feedback": {"control": control}, "refine": {}, "score": {},
              "finetune": {"objective": objective, "target": "refinement"}, "evaluate": {"best_of_n": 1}}
    metrics = [Metric(1, "finetune", "tokens_trained", tokens), Metric(1, "evaluate", "insult_rate", share, 0.05, N),
               Metric(1, "evaluate", "kl_policy_base", kl, 0.1, N)]
    iteration = Iteration(1, {"evaluate": Stage(outputs, {"complete": True})}, {}, {}, [])
    return WorkFolder(path, config, metrics, [iteration], baselines or {}, [], {"insult_rate": "lower"})


def seed(path, number):
    rng = np.random.default_rng(number)
    ilf = (rng.random(N) < 0.3).astype(float)
    worse = np.maximum(ilf, rng.random(N) < 0.5)
    return run(path, ilf, baselines={
        "ILF-shuffled": run(path, worse, "shuffled"),
        "dpo": run(path, ilf, objective="dpo", tokens=2000.0), "dpo-shuffled": run(path, worse, "shuffled", "dpo")})


@pytest.mark.fast
def test_one_seed(tmp_path):
    work = seed(tmp_path, 0)
    found = {row.label: row for row in methods.rows([work])}
    assert list(found) == ["ILF", "ILF-shuffled", "dpo", "dpo-shuffled"]
    ilf, shuffled, dpo = (found[name] for name in ("ILF", "ILF-shuffled", "dpo"))
    assert ilf.ilf_minus_this is None and dpo.tokens == 2000
    assert (dpo.ilf_minus_this.value, dpo.ilf_minus_this.low, dpo.ilf_minus_this.high) == (0, 0, 0)
    assert not dpo.ilf_minus_this.is_clear
    assert shuffled.ilf_minus_this.value < 0 and shuffled.ilf_minus_this.is_clear
    assert ilf.minus_control.value == pytest.approx(shuffled.ilf_minus_this.value) and dpo.minus_control.is_clear
    assert shuffled.minus_control is None
    table = methods.table([work])
    assert table.columns[:3] == ["method", "tokens trained", "insult rate"] and table.rows[2][:2] == ["dpo", "2,000"]
    assert table.rows[2][3] == "0.000 in every document" and table.rows[0][3] == "–"
    assert table.rows[1][3].startswith("−0.") and table.rows[0][4].startswith("−0.")


@pytest.mark.fast
def test_several_seeds_are_averaged_document_by_document(tmp_path):
    works = [seed(tmp_path, i) for i in range(3)]
    found = {row.label: row for row in methods.rows(works)}
    shares = [work.value(1, "evaluate", "insult_rate").value for work in works]
    assert found["ILF"].value.value == pytest.approx(np.mean(shares))
    assert found["ILF"].value.stderr == pytest.approx(np.std(shares, ddof=1) / np.sqrt(3))
    one = [methods.rows([work])[1].ilf_minus_this.value for work in works]
    assert found["ILF-shuffled"].ilf_minus_this.value == pytest.approx(np.mean(one))
    assert found["ILF-shuffled"].ilf_minus_this.n == N


def test_shares_of_zero_in_every_seed_have_wilson_s_interval(tmp_path):
    none = run(tmp_path, np.zeros(N), baselines={"dpo": run(tmp_path, np.zeros(N), objective="dpo")})
    bounded = [dataclasses.replace(m, stderr=0.0, low=0.0, high=0.06) if m.metric == "insult_rate" else m
               for m in none.metrics]
    works = [dataclasses.replace(none, metrics=bounded)] * 3
    assert tables.with_error(methods.rows(works[:1])[0].value) == "0.000 [0.000, 0.060]"
    assert tables.with_error(methods.rows(works)[0].value) == "0.000 [0.000, 0.021]"  # of 180 outputs


def test_documents_without_values_of_their_own_show_no_difference(tmp_path):
    work = seed(tmp_path, 0)
    for of_run in (work, *work.baselines.values()):
        rows = of_run.iterations[0].stages["evaluate"].records
        rows.update({i: dataclasses.replace(output, values={}) for i, output in rows.items()})
    table = methods.table([work])
    assert table.columns == ["method", "tokens trained", "insult rate", "KL from the start"]
    assert {len(row) for row in table.rows} == {4}
    assert [text.partition(" (")[0] for text in methods.not_shown([work])] == [
        "ILF minus this", "this minus its shuffled control"]


def test_a_baseline_under_way_has_no_row(tmp_path):
    """Its policy before training is no result of its training."""
    work = seed(tmp_path, 0)
    begun = run(tmp_path, np.ones(N), objective="sdpo")
    before = dataclasses.replace(begun.iterations[0], number=0)
    begun = dataclasses.replace(begun, iterations=[before], metrics=[
        dataclasses.replace(m, iteration=0) for m in begun.metrics if m.stage == "evaluate"])
    work = dataclasses.replace(work, baselines={**work.baselines, "sdpo": begun})
    for seeds in ([work], [seed(tmp_path, 1), work], [work, seed(tmp_path, 1)]):
        assert [row.label for row in methods.rows(seeds)] == ["ILF", "ILF-shuffled", "dpo", "dpo-shuffled"]


def test_seeds_are_compared_where_all_of_them_are(tmp_path):
    first, second = seed(tmp_path, 0), seed(tmp_path, 1)
    further = [dataclasses.replace(m, iteration=2, value=0.0) for m in first.metrics]
    later = [dataclasses.replace(first.iterations[0], number=2)]
    ahead = dataclasses.replace(first, metrics=first.metrics + further, iterations=first.iterations + later)
    for label in ("ILF", "dpo"):
        rows = [{row.label: row for row in methods.rows([run, second])}[label] for run in (first, ahead)]
        assert rows[0] == rows[1]
    unborn = dataclasses.replace(second, metrics=[], iterations=[])
    assert methods.rows([first, unborn]) == [] == methods.rows([unborn, first])


def test_without_baselines_there_is_nothing_to_compare(tmp_path):
    work = dataclasses.replace(seed(tmp_path, 0), baselines={})
    assert methods.table([work]).rows == [] and methods.plot([work]) is None


def test_the_figure_and_the_page(tmp_path):
    work = seed(tmp_path, 0)
    plot = methods.plot([work])
    assert plot.svg.startswith("<svg") and "dpo-shuffled" in plot.svg and "Lower is better" in plot.caption
    page = html_report.render(work)
    assert "<h3>Methods</h3>" in page and "this minus its shuffled control" in page and "Not measured" not in page


def test_a_finished_run_has_the_numbers(tiny_run):
    """Values of each output, and tokens trained, as they stand in a work folder."""
    work = workfolder.read(tiny_run[1])
    last = work.iterations[-1]
    values = [o.values["insult_rate"] for o in last.rows("evaluate").values()]
    assert np.mean(values) == pytest.approx(work.value(last.number, "evaluate", "insult_rate").value)
    tokens = [m.value for m in work.metrics if m.metric == "tokens_trained"]
    steps = [sum(row["tokens"] for row in i.steps) for i in work.iterations if i.steps]
    assert tokens == steps and min(tokens) > 0
