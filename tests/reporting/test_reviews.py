"""The report's section about people's reviews."""

import json
import pathlib
import shutil

import pytest

from ilf_jax.reporting import html_report, reviews, workfolder


@pytest.fixture
def folder(tiny_run, tmp_path):
    _, run, _ = tiny_run
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    return tmp_path / "run"


def write(folder: pathlib.Path, *rows):
    path = folder / "iteration_001/feedback/reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(i, status="submitted", classes=("coverage",), seconds=60):
    return {"id": i, "draft": "", "status": status, "feedback": "x", "class": classes[0], "reviews": [
        {"reviewer": f"r{n}", "status": status, "class": c, "rating": None, "seconds": seconds + n}
        for n, c in enumerate(classes)]}


def test_shares_times_classes_and_agreement(folder):
    write(folder, row("a", classes=("coverage", "coverage")), row("b", classes=("accuracy", "<b>x</b>"), seconds=180),
          row("c", "skipped", ("",)), row("a", classes=("coverage", "coverage"), seconds=100))
    found = reviews.read(workfolder.read(folder))
    assert found.work.rows == [["1", "2", "2 of 6", "17%", "101", "140", "180"]]
    assert [line[0] for line in found.classes.rows] == ["accuracy", "coverage"]
    assert [line[1] for line in found.agreement.rows] == ["Krippendorff's alpha", "Cohen's kappa"]
    page = html_report.build_report(folder).read_text()
    assert "Reviews by people" in page and "Krippendorff" in page and "<b>x" not in page


def test_no_reviews_no_section(folder):
    assert reviews.read(workfolder.read(folder)).work.rows == []
    assert "Reviews by people" not in html_report.build_report(folder).read_text()
