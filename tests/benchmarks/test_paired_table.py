"""Means over seeds and paired differences of any metric, from the files of finished runs."""

import re

import pytest

from benchmarks import paired_table
from ilf_jax.records import Output
from ilf_jax.reporting.workfolder import Iteration, Stage, WorkFolder

pytestmark = pytest.mark.fast


def run(path, before, after, baselines=None):
    def iteration(number, values):
        outputs = {str(i): Output(str(i), "text", 1, True, 0.0, {"made_up": v}) for i, v in enumerate(values)}
        return Iteration(number, {"evaluate": Stage(outputs, {"complete": True})}, {}, {}, [])

    iterations = [iteration(i, values) for i, values in enumerate((before, after)) if values is not None]
    return WorkFolder(path, {"task": "summarize"}, [], iterations, baselines or {}, [], {})


def cells(table, label):
    line = next(line for line in table.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_and_differences_by_hand(tmp_path):
    before = [0.5, 0.5, 0.5, 0.5]
    seeds = [run(tmp_path, before, [0.1, 0.2, 0.3, 0.4 + shift], {"drafts": run(tmp_path, None, [0.3, 0.4, 0.5, 0.6])})
             for shift in (0.0, 0.2)]
    table = paired_table.table(seeds, "made_up")
    assert cells(table, "made_up") == ["made_up", "mean", "this minus before training", "ILF minus this"]
    assert cells(table, "before training")[1:3] == ["0.500 ± 0.000", "–"]
    own = cells(table, "ILF")
    assert own[1] == "0.275 ± 0.025" and own[3] == "–"  # 0.25 and 0.30
    assert own[2].startswith("−0.225 [−0.")
    # Of the mean over seeds: 0.2 less in three documents, 0.1 in the last.
    value, low, high = map(float, re.findall(r"-[\d.]+", cells(table, "drafts")[3].replace("−", "-")))
    assert value == pytest.approx(-0.175) and -0.2 <= low < value < high <= -0.1


def test_a_system_that_a_seed_has_not_evaluated_is_left_out(tmp_path):
    whole = run(tmp_path, [0.5, 0.5], [0.1, 0.3], {"drafts": run(tmp_path, None, [0.3, 0.4])})
    for baselines in ({}, {"drafts": run(tmp_path, [0.5, 0.5], None)}):
        begun = run(tmp_path, [0.5, 0.5], [0.1, 0.3], baselines)
        table = paired_table.table([whole, begun], "made_up")
        assert "| ILF |" in table and "drafts" not in table


def test_one_seed_has_no_error_over_seeds(tmp_path):
    work = run(tmp_path, [0.5, 0.5], [0.1, 0.3])
    assert cells(paired_table.table([work], "made_up"), "ILF")[1] == "0.200"
