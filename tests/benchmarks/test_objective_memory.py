"""What benchmarks/objective_memory.py feeds to each objective, and what it makes of the numbers."""

import sys

import pytest

from benchmarks import objective_memory

pytestmark = pytest.mark.fast


def test_rows_have_what_every_objective_reads():
    found = objective_memory.rows(3, 60)
    assert found == objective_memory.rows(3, 60) and len({row["document"] for row in found}) == 3
    assert [len(found[0][name].split()) for name in ("document", "draft", "feedback", "human_refinement")] == [
        60, 10, 5, 10]


def test_ratios_are_to_the_first_objective():
    row = {"peak_mb": 1000.0, "seconds_per_1000_tokens": 2.0, "tokens": 1808.0}
    lines = objective_memory.table({"nll": row, "dpo": {**row, "peak_mb": 1250.0, "seconds_per_1000_tokens": 1.0}})
    assert lines.splitlines()[-1] == "| dpo | 1,250 | 1.25 | 1.00 | 0.50 | 1,808 |"


def test_an_unknown_objective_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["objective_memory.py", "--objectives=nll,dpoo"])
    with pytest.raises(SystemExit):
        objective_memory.main()
    assert "'dpoo' is not one of nll, dpo" in capsys.readouterr().err
