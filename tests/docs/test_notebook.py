"""The notebook runs from top to bottom, and shows that training helped."""

import re

import pytest
from code_blocks import ROOT


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs/first_run.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code"
                      for output in cell.outputs)
    before, after = (float(rate) for rate in re.findall(r"iterations: (\d\.\d+) ±", printed))
    assert after < before - 0.1
    assert list(tmp_path.glob("*/run/report.html"))
