"""Sweeps: their algebra, what is run and skipped, and what comes out. The cells here are small programs, not runs."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.reporting import markdown
from ilf_jax.runtime import files
from ilf_jax.sweeps import command_line, folders, grid, page, results, runner, stale
from ilf_jax.sweeps.grid import Sweep, axis, chain, named, product, together

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/quickstart.py")
SIZE = "data.train_size"

# Does what a run leaves behind: metrics.jsonl and, see `fake`, config.json. Fails where the size is 13, the first time;
# waits for people where it is 14, as long as there is no feedback.
CELL = """
import json, pathlib, sys
size, seed, folder = float(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "started").open("a") as f:
    f.write("x")
if size == 13 and (folder / "started").read_text() == "x":
    print("what went wrong")
    sys.exit(3)
asked = folder / "iteration_001" / "feedback" / "to_review.jsonl"
if size == 14 and not asked.exists():
    asked.parent.mkdir(parents=True)
    asked.write_text("")
    print("waiting: write feedback")
    sys.exit(4)
rows = [{"iteration": k, "stage": stage, "metric": "loss", "value": 100 / k / size + seed, "stderr": 0.5, "n": 9}
        for k in (1, 2) for stage in ("evaluate", "best_of_n")]
(folder / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""


def fake(sweep, cell, folder):
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "config.json", config_lib.to_dict(grid.config_of(sweep, cell)))
    return [sys.executable, "-c", CELL, str(cell[SIZE]), str(cell.get("seed", 0)), str(folder)]


def make_sweep(*sizes, seeds=(0, 1), **more):
    return Sweep(CONFIG, product(axis(SIZE, *sizes), axis("seed", *seeds)), ("evaluate/loss",), x=SIZE, **more)


# Algebra


@pytest.mark.versions
@pytest.mark.fast
def test_product_chain_together():
    a, b = axis("a.x", 1, 2), axis("seed", 0, 1)
    assert product(a, b) == [{"a.x": 1, "seed": 0}, {"a.x": 1, "seed": 1}, {"a.x": 2, "seed": 0},
                             {"a.x": 2, "seed": 1}]
    assert chain(a, b) == [{"a.x": 1}, {"a.x": 2}, {"seed": 0}, {"seed": 1}]
    assert together(a, b) == [{"a.x": 1, "seed": 0}, {"a.x": 2, "seed": 1}]
    assert product(together(a, b), axis("c", 7)) == [{"a.x": 1, "seed": 0, "c": 7}, {"a.x": 2, "seed": 1, "c": 7}]
    with pytest.raises(InputError, match="1, 2 cells"):
        together(axis("a", 1), b)
    with pytest.raises(InputError, match="seed twice"):
        product(b, b)


def test_names_are_file_names():
    assert grid.name({SIZE: 100, "finetune.learning_rate": 2e-5}) == "train_size=100,learning_rate=2e-05"
    assert "/" not in grid.name({"policy.checkpoint": "hf:/a folder/b"})


def write(tmp_path, text):
    path = tmp_path / "sweep.py"
    path.write_text("from ilf_jax.sweeps.grid import *\n\n\ndef get_sweep():\n    " + text + "\n")
    return str(path)


@pytest.mark.parametrize(("text", "message"), [
    ("return Sweep('c.py', [], ('a/b',))", "has no cells"),
    ("return Sweep('c.py', product(axis('a', 1), axis('a', 2)), ('a/b',))", "sets a twice"),
    ("return 1 / 0", "ZeroDivisionError"),
    ("return Sweep('c.py', axis('seed', 1, 1), ('a/b',))", "two cells are called seed=1"),
    ("return Sweep('c.py', axis('seed', 1, 2), ('a/b',), x='data.train_size')", "over data.train_size"),
    ("return Sweep('c.py', axis('seed', 1, 2), ('a/b',), x='seed', side_by_side='c')", "called so; there are none"),
    ("return Sweep('c.py', axis('seed', 1, 2), ('a/b', 'c/b'), side_by_side='b')", "takes an x axis"),
])
def test_a_sweep_that_makes_no_sense(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        grid.load(write(tmp_path, text))


def test_a_sweep_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such Python file"):
        grid.load(str(tmp_path / "sweep.py"))


@pytest.mark.fast
@pytest.mark.parametrize(("cell", "message"), [
    ({"config": "configs/nothing.py"}, "cell config=configs_nothing.py: configs/nothing.py: there is no such Python"),
    ({"data.train_sise": 5}, "did you mean config.data.train_size"),
    ({"dta.train_size": 5}, "there is no such key"),
    ({SIZE: "many"}, "expected int"),
])
def test_a_wrong_cell_stops_the_sweep_before_anything_runs(tmp_path, cell, message):
    sweep = Sweep(CONFIG, [{SIZE: 5}, cell], ("evaluate/loss",))
    with pytest.raises(InputError, match=message):
        runner.run(sweep, tmp_path, make_command=fake)
    assert not list(tmp_path.iterdir())


def test_a_cell_is_run_as_its_configuration_says():
    cell = {"config": "configs/tldr_5k.py:n=100", "evaluate.win_rate": False, SIZE: 7}
    command = runner.command(Sweep(CONFIG, [cell], ("a/b",)), cell, Path("w"))
    assert command[1:] == ["-m", "ilf_jax.main", "--config=configs/tldr_5k.py:n=100", "--workdir=w",
                           "--config.evaluate.win_rate=false", "--config.data.train_size=7"]
    sweep = Sweep(CONFIG, [{SIZE: 7}], ("a/b",), always={"baselines": (), "iterations": 1})
    assert runner.command(sweep, sweep.cells[0], Path("w"))[-3:] == [
        "--config.baselines=()", "--config.iterations=1", "--config.data.train_size=7"]
    config = grid.config_of(sweep, sweep.cells[0])
    assert (config.data.train_size, config.baselines, config.iterations) == (7, {}, 1)


# Running


@pytest.mark.fast
def test_each_cell_runs_once_and_failed_ones_again(tmp_path):
    sweep = make_sweep(10, 13)
    failures = runner.run(sweep, tmp_path, jobs=2, make_command=fake)
    assert [f.name for f in sorted(failures, key=lambda f: f.name)] == ["train_size=13,seed=0", "train_size=13,seed=1"]
    assert all(f.code == 3 and f.last_lines == "what went wrong" for f in failures)
    rows = results.collect(sweep, tmp_path)
    assert [(row.setting, row.complete, row.cells) for row in rows] == [({SIZE: 10}, 2, 2), ({SIZE: 13}, 0, 2)]
    assert runner.run(sweep, tmp_path, make_command=fake) == []
    started = {p.parent.name: p.read_text() for p in tmp_path.glob("cells/*/started")}
    assert started == {"train_size=10,seed=0": "x", "train_size=10,seed=1": "x",
                       "train_size=13,seed=0": "xx", "train_size=13,seed=1": "xx"}


def test_a_killed_sweep_takes_its_cells_along_and_goes_on(tmp_path):
    """The sweep in a process of its own; its second cell waits, to be met by the kill."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests/sweeps")!r})
from test_sweeps import *
wait = "import os, pathlib, sys, time; p = pathlib.Path(sys.argv[1] + '.pid'); p.parent.mkdir(exist_ok=True)\\n" \\
       "p.write_text(str(os.getpid())); time.sleep(600)"
command = lambda sweep, cell, folder: ([sys.executable, "-c", wait, str(folder)] if cell[SIZE] == 20
                                       else fake(sweep, cell, folder))
runner.run(make_sweep(10, 20, 30, seeds=(0,)), Path({str(tmp_path)!r}), make_command=command)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    waiting = tmp_path / "cells/train_size=20,seed=0.pid"
    deadline = time.monotonic() + 60
    while not (waiting.exists() and waiting.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    cell = int(waiting.read_text())
    process.kill()
    process.wait()
    while _runs(cell) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(cell)
    sweep = make_sweep(10, 20, 30, seeds=(0,))
    assert [folders.is_done(tmp_path, c) for c in sweep.cells] == [True, False, False]
    assert runner.run(sweep, tmp_path, make_command=fake) == []
    whole = tmp_path / "never killed"
    runner.run(sweep, whole, make_command=fake)
    assert results.markdown(sweep, results.collect(sweep, tmp_path)) == \
        results.markdown(sweep, results.collect(sweep, whole))
    assert (tmp_path / "cells/train_size=10,seed=0/started").read_text() == "x"


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_two_sweeps_in_one_folder(tmp_path):
    with files.lock(tmp_path, "taken"), pytest.raises(InputError, match="another sweep"):
        runner.run(make_sweep(10), tmp_path, make_command=fake)


def test_for_other_schedulers(tmp_path):
    sweep = make_sweep(10, 20, seeds=(0,))
    runner.run(Sweep(CONFIG, sweep.cells[:1], sweep.metrics), tmp_path, make_command=fake)
    (line,) = runner.shell_lines(sweep, tmp_path)  # the other cell is complete
    assert "--config.data.train_size=20" in line and line.endswith("train_size=20,seed=0.done")
    script = runner.slurm_script(sweep, tmp_path)
    assert "#SBATCH --array=0-0\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    runner.run(sweep, tmp_path, make_command=fake)
    finished = runner.slurm_script(sweep, tmp_path)
    assert "--array" not in finished and "nothing to run" in finished


def test_one_cell_by_its_number(tmp_path):
    sweep = make_sweep(10, 13, seeds=(0,))
    for number in (-1, 2):
        with pytest.raises(InputError, match="cells are 0 to 1"):
            runner.run_cell(sweep, tmp_path, number)
    assert runner.run_cell(sweep, tmp_path, 1, make_command=fake) == 3
    assert runner.run_cell(sweep, tmp_path, 1, make_command=fake) == 0
    name = grid.name(sweep.cells[1])
    assert [p.name for p in (tmp_path / "cells").glob("*.done")] == [f"{name}.done"]
    assert runner.run_cell(sweep, tmp_path, 1, make_command=fake) == 0
    assert (tmp_path / "cells" / name / "started").read_text() == "xx"  # complete: not run a third time


@pytest.mark.fast
def test_two_jobs_on_one_cell(tmp_path):
    sweep = make_sweep(10, 20, seeds=(0,))
    changed = make_sweep(10, 20, seeds=(0,), always={"finetune.epochs": 3})
    runner.run(sweep, tmp_path, make_command=fake)
    with folders.claim(tmp_path, sweep.cells[0]):
        for rerun in (False, True):
            with pytest.raises(InputError, match="another process runs the cell train_size=10,seed=0"):
                runner.run_cell(changed, tmp_path, 0, make_command=fake, rerun=rerun)
        with pytest.raises(InputError, match="another process runs the cell train_size=10,seed=0"):
            runner.run(changed, tmp_path, make_command=fake, rerun=True)
        assert (tmp_path / "cells/train_size=10,seed=0/started").read_text() == "x"
        folders.mark_as_incomplete(tmp_path, sweep.cells[0])
        (failure,) = runner.run(sweep, tmp_path, make_command=fake)
        assert "another process runs the cell" in failure.last_lines
        assert runner.run_cell(sweep, tmp_path, 1, make_command=fake) == 0
    assert runner.run_cell(sweep, tmp_path, 0, make_command=fake) == 0


@pytest.mark.fast
@pytest.mark.parametrize("how", ["run", "one cell", "commands"])
def test_a_cell_whose_data_have_changed_is_refused_or_run_again(tmp_path, how):
    data = tmp_path / "data.jsonl"
    data.write_text("1")
    sweep = make_sweep(10, seeds=(0,), always={"data.source": f"jsonl:{data}"})
    if how == "run":
        runner.run(sweep, tmp_path, make_command=fake)
    elif how == "one cell":
        runner.run_cell(sweep, tmp_path, 0, make_command=fake)
    else:
        (line,) = runner.shell_lines(sweep, tmp_path)
        fake(sweep, sweep.cells[0], folders.cell_folder(tmp_path, sweep.cells[0]))
        subprocess.run(["bash", "-c", line.partition(" && ")[2]], check=True)
    assert folders.is_done(tmp_path, sweep.cells[0]) and stale.find(sweep, tmp_path) == []
    data.write_text("2")
    with pytest.raises(InputError, match=r"the file of config\.data\.source has another content"):
        runner.run(sweep, tmp_path, make_command=fake)
    assert run_again(sweep, tmp_path, rerun=True) == {"train_size=10,seed=0": "x"}
    data.unlink()
    assert stale.find(sweep, tmp_path) == []


def test_real_runs(tmp_path):
    """Two cells as the program runs them, through flags and all; started again, they are left alone.

    Their config names a function of its own file, whose path the cell's process and the sweep's spell differently.
    """
    path = tmp_path / "seeds.py"
    always = {"iterations": 1, "baselines": (), "data.train_size": 4, "data.eval_size": 4,
              "policy.checkpoint": "init:tiny",
              "policy.tokenizer": "train:512", "refiner.checkpoint": "policy", "judge.checkpoint": "policy"}
    path.write_text("from ilf_jax.sweeps.grid import *\n\n\ndef get_sweep():\n"
                    "    return Sweep('configs/own_reward.py', axis('seed', 0, 1), ('evaluate/insult_rate',),\n"
                    f"                 always={always!r})\n")
    command = [sys.executable, "launch/sweep.py", f"--config={path}", f"--workdir={tmp_path / 'w'}", "--jobs=2"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "|  | " not in done.stdout and "| 2 |" in done.stdout
    begun = {p: p.stat().st_mtime_ns for p in (tmp_path / "w/cells").rglob("*.jsonl")}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {p: p.stat().st_mtime_ns for p in begun} == begun


# Results


def test_table_and_page(tmp_path):
    sweep = make_sweep(5, 10, 20, 40, fit=True)
    runner.run(sweep, tmp_path, jobs=2, make_command=fake)
    rows = results.collect(sweep, tmp_path)
    first = rows[0].numbers["evaluate/loss"]  # last iteration: 100 / 2 / 5 + seed
    assert (first.value, first.seeds) == (10.5, (10.0, 11.0))
    assert first.stderr == pytest.approx(0.5)  # |11 - 10| / 2
    assert "| 5 | 10.5 ± 0.5 | 2 |" in results.markdown(sweep, rows)
    fit = results.fit(results.lines(sweep, rows, "evaluate/loss")[""])
    assert fit.law is not None and len(fit.draws) > 10
    text = page.build(sweep, rows, tmp_path, "sizes").read_text()
    assert text.count("<figure") == 1 and "Power law" in text and "8 of 8 cells" in text
    assert "Not complete yet" not in text and "://" not in text.replace("http://www.w3.org", "")
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.name == "evaluate_loss.svg"
    root = xml.etree.ElementTree.parse(figure).getroot()
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert "--series-0: #0072b2" in style and "prefers-color-scheme: dark" in style and "viewBox" in root.attrib


def test_of_one_seed_the_run_s_own_error_is_shown(tmp_path):
    sweep = make_sweep(10, seeds=(0,))
    runner.run(sweep, tmp_path, make_command=fake)
    assert "| 10 | 5.00 ± 0.50 | 1 |" in results.markdown(sweep, results.collect(sweep, tmp_path))


def test_page_of_an_unfinished_sweep(tmp_path):
    sweep = make_sweep(10, 13, fit=True)
    runner.run(sweep, tmp_path, make_command=fake)
    text = page.build(sweep, results.collect(sweep, tmp_path), tmp_path, "sizes").read_text()
    assert "train_size=13,seed=1" in text and "Not complete yet" in text and "2 of 4 cells" in text
    assert "takes 4 distinct x; there are 1" in text


def test_program(tmp_path):
    path = tmp_path / "sizes.py"
    path.write_text("from ilf_jax.sweeps.grid import *\n\n\ndef get_sweep():\n"
                    f"    return Sweep({CONFIG!r}, axis('seed', 0, 1), ('evaluate/insult_rate',))\n")
    flags = [sys.executable, "launch/sweep.py", f"--config={path}", f"--workdir={tmp_path / 'w'}"]
    run = lambda *more: subprocess.run([*flags, *more], cwd=ROOT, capture_output=True, text=True)  # noqa: E731
    assert run("--dry_run").stdout.splitlines() == ["to run  seed=0", "to run  seed=1"]
    assert len(run("--emit=commands").stdout.splitlines()) == 2
    done = run("--jobs=0")
    assert done.returncode == 2 and done.stderr == "error: --jobs=0: must be at least 1\n"


def test_settings_by_name_and_where_they_stand_on_the_axis(tmp_path):
    sizes = named("documents", few={SIZE: 4, "seed": 1}, many={SIZE: 400, "seed": 1})
    sweep = Sweep(CONFIG, product(named("method", a={"score.method": "random"}), sizes), ("evaluate/loss",),
                  x="documents", x_numbers={"few": 4, "many": 400})
    assert [grid.name(cell) for cell in sweep.cells] == ["method=a,documents=few", "method=a,documents=many"]
    assert grid.overrides(sweep, sweep.cells[1])[1] == {"score.method": "random", SIZE: 400, "seed": 1}
    assert grid.config_of(sweep, sweep.cells[0]).data.train_size == 4

    def cell_command(sweep, cell, folder):
        return fake(sweep, grid.overrides(sweep, cell)[1], folder)

    assert runner.run(sweep, tmp_path, make_command=cell_command) == []
    rows = results.collect(sweep, tmp_path)
    assert [p.x for p in results.lines(sweep, rows, "evaluate/loss")["a"]] == [4.0, 400.0]
    assert results.table(sweep, rows)[1][0][:2] == ["a", "few"]
    assert results.lines_side_by_side(sweep, rows) == {}
    metrics = ("evaluate/loss", "best_of_n/loss")
    both = dataclasses.replace(sweep, metrics=metrics, side_by_side="loss")
    rows = results.collect(both, tmp_path)
    assert list(results.lines_side_by_side(both, rows)) == ["a", "a, best_of_n"]
    assert results.table(both, rows)[0] == ["method", "documents", "evaluate/loss", "best_of_n/loss", "seeds"]
    text = page.build(both, rows, tmp_path, "both").read_text()
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "side_by_side.svg", "evaluate_loss.svg", "best_of_n_loss.svg"}
    assert text.count("<svg") == 3 and "Evaluate: loss by documents" in text
    assert ">4</text>" in text and ">400</text>" in text and "mathdefault" not in text
    assert results.to_json(sweep, rows)[0]["setting"] == {"method": "a", "documents": "few"}


def leave(folder, cell, *rows):
    """What a finished cell leaves: (iteration, value) of the loss."""
    place = folders.cell_folder(folder, cell)
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text("".join(json.dumps(
        {"iteration": k, "stage": "evaluate", "metric": "loss", "value": value, "stderr": 0.1}) + "\n"
        for k, value in rows))
    folders.beside(place, ".done").touch()


def test_before_training_is_one_line_where_all_began_alike(tmp_path):
    arms = product(axis("finetune.target", "refinement", "initial"), axis(SIZE, 32, 64, 128, 256), axis("seed", 0, 1))
    sweep = Sweep(CONFIG, arms, ("evaluate/loss",), x=SIZE)
    for cell in sweep.cells:
        leave(tmp_path, cell, (0, 2.0 + cell["seed"]), (1, 1.0 + cell["seed"] / 10))
    rows = results.collect(sweep, tmp_path)
    assert rows[0].before == {"evaluate/loss": 2.5} and rows[0].numbers["evaluate/loss"].value == 1.05
    lines = results.lines(sweep, rows, "evaluate/loss")
    assert results.before_training(lines) == {"before training": [(x, 2.5) for x in (32.0, 64.0, 128.0, 256.0)]}
    text = page.build(sweep, rows, tmp_path, "<b>title").read_text()
    assert ">before training</text>" in text and "Small marks: the seeds." in text
    assert 'href="cells/target%3Drefinement%2Ctrain_size%3D32%2Cseed%3D1/report.html">seed 1</a>' in text
    assert [f">{x}</text>" in text for x in (32, 64, 128, 256, 100)] == [True] * 4 + [False]  # a logarithmic axis

    other = dataclasses.replace(sweep, cells=[{**cell, SIZE: cell[SIZE] + 1} for cell in sweep.cells])
    for cell in other.cells:  # two policies
        leave(tmp_path, cell, (0, 2.0 if cell["finetune.target"] == "initial" else 3.0), (1, 1.0))
    lines = results.lines(other, results.collect(other, tmp_path), "evaluate/loss")
    assert list(results.before_training(lines)) == ["refinement, before training", "initial, before training"]


def test_cells_without_an_evaluation_before_training_have_no_such_line(tmp_path):
    sweep = make_sweep(32, 64, seeds=(0,))
    for cell in sweep.cells:
        leave(tmp_path, cell, (1, 1.0))
    assert results.before_training(results.lines(sweep, results.collect(sweep, tmp_path), "evaluate/loss")) == {}


def test_lines_of_settings_by_different_keys_stay_apart(tmp_path):
    sizes = axis(SIZE, 4, 400)
    sweep = Sweep(CONFIG, product(chain(axis("score.method", "random"), axis("finetune.epochs", 1)), sizes),
                  ("evaluate/loss",), x=SIZE)
    runner.run(sweep, tmp_path, make_command=fake)
    found = results.lines(sweep, results.collect(sweep, tmp_path), "evaluate/loss")
    assert {label: len(points) for label, points in found.items()} == {"method=random": 2, "epochs=1": 2}


# What a changed file does to cells that there are


def run_again(sweep, folder, **more):
    assert runner.run(sweep, folder, make_command=fake, **more) == []
    return {p.parent.name: p.read_text() for p in folder.glob("cells/*/started")}


CHANGED = {
    "always": lambda: make_sweep(10, 20, seeds=(0,), always={"finetune.epochs": 3}),
    "its config file": lambda: dataclasses.replace(make_sweep(10, 20, seeds=(0,)), config=f"{ROOT}/configs/tldr_5k.py"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_cell_whose_configuration_has_changed_is_refused_or_run_again(tmp_path, what):
    before, after = make_sweep(10, 20, seeds=(0,)), CHANGED[what]()
    assert run_again(before, tmp_path) == {"train_size=10,seed=0": "x", "train_size=20,seed=0": "x"}
    table = results.markdown(before, results.collect(before, tmp_path))
    with pytest.raises(InputError, match=r"(?s)2 of 2 cells hold runs of another.*train_size=10,seed=0:.*--rerun"):
        runner.run(after, tmp_path, make_command=fake)
    assert run_again(before, tmp_path) == {"train_size=10,seed=0": "x", "train_size=20,seed=0": "x"}
    assert run_again(after, tmp_path, rerun=True) == {"train_size=10,seed=0": "x", "train_size=20,seed=0": "x"}
    assert results.markdown(before, results.collect(before, tmp_path / "replaced/1")) == table
    assert (tmp_path / "replaced/1/cells/train_size=10,seed=0.log").exists()
    run_again(before, tmp_path, rerun=True)
    assert {p.name for p in (tmp_path / "replaced").iterdir()} == {"1", "2"}


def test_a_cell_that_was_only_begun_is_compared_too(tmp_path):
    sweep = make_sweep(13, seeds=(0,))
    assert len(runner.run(sweep, tmp_path, make_command=fake)) == 1
    changed = make_sweep(13, seeds=(0,), always={"finetune.epochs": 7})
    with pytest.raises(InputError, match="1 of 1 cells"):
        runner.run(changed, tmp_path, make_command=fake)
    assert run_again(sweep, tmp_path) == {"train_size=13,seed=0": "xx"}


def test_more_iterations_continue_a_cell(tmp_path):
    run_again(make_sweep(10, seeds=(0,), always={"iterations": 1}), tmp_path)
    more = make_sweep(10, seeds=(0,), always={"iterations": 2})
    assert run_again(more, tmp_path) == {"train_size=10,seed=0": "xx"}
    assert run_again(more, tmp_path) == {"train_size=10,seed=0": "xx"}
    with pytest.raises(InputError, match=r"config\.iterations: 2 -> 1"):
        runner.run(make_sweep(10, seeds=(0,), always={"iterations": 1}), tmp_path, make_command=fake)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: path.unlink(), "is gone"), (lambda path: path.write_text("{"), "is not valid JSON"),
    (lambda path: files.write_json(path, {"seeed": 1}), "seeed")])
def test_a_cell_that_no_longer_says_what_it_is(tmp_path, damage, message):
    sweep = make_sweep(10, seeds=(0,))
    run_again(sweep, tmp_path)
    damage(tmp_path / "cells/train_size=10,seed=0/config.json")
    (one,) = stale.find(sweep, tmp_path)
    assert message in str(one)
    assert run_again(sweep, tmp_path, rerun=True) == {"train_size=10,seed=0": "x"}


def test_a_folder_of_a_version_with_fewer_keys_is_not_stale(tmp_path):
    sweep = make_sweep(10, seeds=(0,))
    run_again(sweep, tmp_path)
    path = tmp_path / "cells/train_size=10,seed=0/config.json"
    config = files.read_sealed(path)
    del config["evaluate"]["headline"]
    files.write_json(path, config)
    assert stale.find(sweep, tmp_path) == []


def test_the_program_shows_changed_cells(tmp_path, capsys):
    text = "    return Sweep({!r}, axis('data.train_size', 10), ('evaluate/loss',), always={{'finetune.epochs': {}}})\n"
    path, flags = tmp_path / "sizes.py", [f"--workdir={tmp_path / 'w'}"]
    write_sweep = lambda epochs: path.write_text(  # noqa: E731
        "from ilf_jax.sweeps.grid import *\n\n\ndef get_sweep():\n" + text.format(CONFIG, epochs))
    write_sweep(3)
    runner.run(grid.load(str(path)), tmp_path / "w", make_command=fake)
    flags.append(f"--config={path}")
    assert command_line.main([*flags, "--table"]) == 0
    assert "| 10 | 5.00 ± 0.50 | 1 |" in capsys.readouterr().out
    write_sweep(4)
    for more in ("--table", "--emit=commands"):
        assert command_line.main([*flags, more]) == 2
        assert "config.finetune.epochs: 3 -> 4" in capsys.readouterr().err
    assert command_line.main([*flags, "--dry_run"]) == 0
    assert capsys.readouterr().out == "changed  train_size=10:\n    config.finetune.epochs: 3 -> 4\n"
    assert command_line.main([*flags, "--table", "--rerun"]) == 2
    assert command_line.main([*flags, "--emit=commands", "--rerun"]) == 0
    assert (tmp_path / "w/replaced/1/cells/train_size=10/metrics.jsonl").exists()


@pytest.mark.fast
def test_a_cell_that_waits_for_people_has_not_failed(tmp_path, capsys, monkeypatch):
    path, workdir = tmp_path / "sizes.py", tmp_path / "a sweep"
    path.write_text("from ilf_jax.sweeps.grid import *\n\n\ndef get_sweep():\n"
                    f"    return Sweep({CONFIG!r}, axis('data.train_size', 10, 14), ('evaluate/loss',))\n")
    flags = [f"--config={path}", f"--workdir={workdir}"]
    monkeypatch.setattr(runner, "run", functools.partial(runner.run, make_command=fake))
    assert command_line.main(flags) == 4
    said = capsys.readouterr()
    assert "| 14 | – | 0 of 1, 1 waiting for feedback |" in said.out
    assert "failed" not in said.err and "waiting: 1 of 2 cells wait for feedback" in said.err
    assert f"  ilf-jax review --workdir='{workdir}/cells/train_size=14'\n" in said.err
    text = (workdir / "report.html").read_text()
    assert "Waiting for feedback from people" in text and "Not complete yet" not in text
    assert [row["waiting"] for row in json.loads((workdir / "table.json").read_text())] == [0, 1]
    assert command_line.main([*flags, "--dry_run"]) == 0
    assert capsys.readouterr().out == "done    train_size=10\nwaiting train_size=14\n"
    assert command_line.main(flags) == 0  # the feedback is there now
    assert "| 14 | 3.57 ± 0.50 | 1 |" in capsys.readouterr().out


# Names


@pytest.mark.fast
@pytest.mark.parametrize("label", ["x" * 300, "ä" * 200, "\U0001f600é" * 100, "日本" * 60])
def test_a_long_name_still_is_a_file_name(tmp_path, label):
    cells = named("method", **{label + "1": {"seed": 1}, label + "2": {"seed": 2}})
    first, second = map(grid.name, cells)
    assert first != second and first.startswith("method=")
    for name in (first, second):
        assert len(f".{name}.done.tmp".encode()) <= 255
        files.write_atomically(tmp_path / f"{name}.done", "")


def test_a_sweep_with_a_long_name_runs(tmp_path):
    sweep = Sweep(CONFIG, product(axis(SIZE, 10), axis("policy.checkpoint", f"hf:/{'long/' * 60}", "hf:/other"),
                                  axis("seed", 0, 1)), ("evaluate/loss",))
    run_again(sweep, tmp_path)
    assert [(row.complete, row.cells) for row in results.collect(sweep, tmp_path)] == [(2, 2), (2, 2)]


def test_settings_that_look_alike_as_file_names_are_two_rows(tmp_path):
    sweep = Sweep(CONFIG, [{SIZE: 10, "policy.checkpoint": "hf:a/b", "seed": 0},
                           {SIZE: 10, "policy.checkpoint": "hf:a_b", "seed": 1}], ("evaluate/loss",))
    assert [row.setting["policy.checkpoint"] for row in results.collect(sweep, tmp_path)] == ["hf:a/b", "hf:a_b"]


# Tables


NASTY = ["a|b", "two\nlines\r\nthree", "`code`", "<script>alert(1)</script>", "&amp;", "[x](http://y)", "*b* **c**",
         "_i_ but insult_rate", "back\\slash|", "~~s~~", "![i](j)", "\u2028|\x85|", "| --- |"]


@pytest.mark.fast
def test_a_cell_shows_the_text_that_it_is():
    text = markdown.table(["name", *NASTY[:2]], [[nasty, "1", nasty] for nasty in NASTY])
    assert len(text.splitlines()) == len(text.strip().split("\n")) == len(NASTY) + 2
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    root = xml.etree.ElementTree.fromstring(f"<x>{html}</x>")
    rows = [[cell for cell in row] for row in root.iter("tr")]
    assert [len(row) for row in rows] == [3] * (len(NASTY) + 1)
    for nasty, row in zip(NASTY, rows[1:], strict=True):
        assert [len(cell) for cell in row] == [0, 0, 0]  # text alone, no element
        assert row[0].text == row[2].text == " ".join(nasty.split())


def test_the_sweep_s_table_and_page_escape(tmp_path):
    label = "a|b<i>`c`"
    sweep = Sweep(CONFIG, product(named("m|e", **{label: {SIZE: 10}})), ("evaluate/loss",))
    rows = [results.Row(sweep.cells[0], {}, 0, 1)]
    assert results.markdown(sweep, rows).splitlines()[2] == "| a\\|b&lt;i&gt;\\`c\\` | – | 0 of 1 |"
    page_text = page.build(sweep, rows, tmp_path, "<b>title</b>").read_text()
    assert "a|b&lt;i&gt;`c`" in page_text and "<i>`" not in page_text and "<b>title" not in page_text
