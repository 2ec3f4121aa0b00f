"""A sweep with its folder in a bucket: cells are run, marked, logged, skipped, moved aside. Cells are no real runs."""

import pathlib
import subprocess
import sys

import object_stores
import pytest

from ilf_jax import config as config_lib
from ilf_jax.runtime import bucket, files, storage
from ilf_jax.sweeps import folders, grid, page, results, runner
from ilf_jax.sweeps.grid import Sweep, axis

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/quickstart.py")
SIZE = "data.train_size"
# A run's metrics.jsonl; fails where the size is 13.
CELL = """
import json, sys
from ilf_jax.runtime import storage
size, folder = int(sys.argv[1]), storage.path(sys.argv[2])
print("size", size)
row = {"iteration": 1, "stage": "evaluate", "metric": "loss", "value": 1 / size, "stderr": 0.5, "n": 9}
(folder / "metrics.jsonl").write_text(json.dumps(row) + chr(10))
sys.exit(size == 13)
"""


def cell_command(sweep, cell, folder):
    files.write_json(folder / "config.json", config_lib.to_dict(grid.config_of(sweep, cell)))
    return [sys.executable, "-c", CELL, str(cell[SIZE]), str(folder)]


@pytest.fixture(params=object_stores.SCHEMES)
def workdir(request, monkeypatch):
    with object_stores.started(request.param) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        bucket.bucket.cache_clear()
        yield storage.path(f"{store.uri}/sweep")
        bucket.bucket.cache_clear()


def test_a_sweep_in_a_bucket(workdir):
    sweep = Sweep(CONFIG, axis(SIZE, 10, 13), ("evaluate/loss",), x=SIZE)
    failures = runner.run(sweep, workdir, jobs=2, make_command=cell_command)
    assert [(f.name, f.code, f.last_lines, str(f.log)) for f in failures] == [
        ("train_size=13", 1, "size 13", f"{workdir}/cells/train_size=13.log")]
    assert [folders.is_done(workdir, cell) for cell in sweep.cells] == [True, False]
    assert (workdir / "cells" / "train_size=10.log").read_text() == "size 10\n"
    assert results.collect(sweep, workdir)[0].numbers["evaluate/loss"].value == 0.1
    assert "train_size=13" in page.build(sweep, results.collect(sweep, workdir), workdir, "t").read_text()

    line, = runner.shell_lines(sweep, workdir)
    mark = line.partition(" && ")[2]
    assert mark.startswith(f"{sys.executable} -m ilf_jax.sweeps.mark {workdir}/cells/train_size=13.done ")
    subprocess.run(mark, shell=True, check=True, cwd=pathlib.Path(CONFIG).parents[1])
    assert runner.run(sweep, workdir, make_command=cell_command) == []
    assert (workdir / "cells" / "train_size=13.log").read_text() == "size 13\n"  # it was not run again

    changed = Sweep(CONFIG, [{SIZE: 10, "seed": 5}], ("evaluate/loss",), x=SIZE, seed="none")
    name = grid.name(changed.cells[0])
    for ending in ("", ".done", ".log"):
        storage.move(workdir / "cells" / f"train_size=10{ending}", workdir / "cells" / f"{name}{ending}")
    assert not (workdir / "cells" / "train_size=10").exists() and not folders.is_done(workdir, sweep.cells[0])
    assert runner.run_cell(changed, workdir, 0, make_command=cell_command, rerun=True) == 0
    assert storage.names(workdir / "replaced" / "1" / "cells") == {name, f"{name}.done", f"{name}.log"}
    assert folders.is_done(workdir, changed.cells[0])
