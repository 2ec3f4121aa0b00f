"""TensorBoard's files of a run that is under way, read by TensorBoard itself across a kill and the end of the run."""

import json
import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.reporting import live_events, tensorboard_files
from ilf_jax.reporting.live_events import LiveEvents
from ilf_jax.training.step_log import StepLog

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def reader(folder):
    """TensorBoard's own, with nothing thinned."""
    return event_accumulator.EventAccumulator(str(folder), size_guidance={event_accumulator.SCALARS: 0})


def points(opened, tag):
    """[(step, value), ...] of a curve, of what is on the disk now."""
    opened.Reload()
    return [(point.step, point.value) for point in opened.Scalars(tag)] if tag in opened.Tags()["scalars"] else []


def row(iteration, stage, metric, value):
    return {"iteration": iteration, "stage": stage, "metric": metric, "value": value}


def started(run, iteration, kept=0):
    """(events, log) of a process that begins an iteration, or goes on with `kept` of its steps."""
    events = LiveEvents(run, run / "tensorboard")
    folder = run / f"iteration_{iteration:03d}" / "finetune"
    folder.mkdir(parents=True, exist_ok=True)
    log = StepLog(folder / "steps.jsonl", "finetune", events.steps("finetune", iteration))
    log.rewind(kept)
    return events, log


def take(log, steps, losses):
    for step, loss in zip(steps, losses, strict=True):
        log.add(step, {"loss": loss, "grad_norm": 1.0})


@pytest.mark.fast
def test_a_killed_run_has_each_step_once(tmp_path):
    first, log = started(tmp_path, 1)
    first.show([row(0, "evaluate", "rate", 0.5)])
    take(log, range(3), [3.0, 2.0, 1.0])
    first.show([row(0, "evaluate", "rate", 0.5), row(1, "finetune", "loss", 1.0)])
    watching = reader(tmp_path / "tensorboard")
    assert points(watching, "steps/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]

    second, log = started(tmp_path, 2)  # without an end of the first: it was killed
    take(log, range(3), [0.9, 0.8, 0.7])
    second.show([])
    assert [step for step, _ in points(watching, "steps/loss")] == [0, 1, 2, 3, 4, 5]

    third, log = started(tmp_path, 2, kept=1)  # its last checkpoint was after one step
    take(log, range(1, 3), [0.6, 0.5])
    third.show([row(0, "evaluate", "rate", 0.5), row(1, "finetune", "loss", 1.0), row(2, "finetune", "loss", 0.5)])
    expected = [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.9), (4, 0.6), (5, 0.5)]
    for opened in (watching, reader(tmp_path / "tensorboard")):
        assert points(opened, "steps/loss") == [(step, pytest.approx(loss)) for step, loss in expected]
        assert points(opened, "evaluate/rate") == [(0, 0.5)]
        assert points(opened, "finetune/loss") == [(1, 1.0), (2, 0.5)]
    third.close()


@pytest.mark.fast
def test_a_resumed_run_shows_what_was_complete_before(tmp_path):
    before, log = started(tmp_path, 1)
    take(log, range(2), [2.0, 1.0])
    before.close()
    resumed = LiveEvents(tmp_path, tmp_path / "tensorboard")
    baseline = resumed.beside("sft", tmp_path / "baselines/sft")
    resumed.show([row(0, "evaluate", "rate", 0.5), row(1, "finetune", "loss", 1.0), row(1, "run", "goodput", 0.9)])
    baseline.show([row(0, "evaluate", "rate", 0.4)])
    baseline.close()
    opened = reader(tmp_path / "tensorboard")
    assert points(opened, "steps/loss") == [(0, 2.0), (1, 1.0)] and not points(opened, "run/goodput")
    assert points(reader(tmp_path / "tensorboard/sft"), "evaluate/rate") == [(0, pytest.approx(0.4))]


@pytest.mark.fast
def test_long_trainings_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(live_events, "_DENSE", 4)
    events, log = started(tmp_path, 1)
    take(log, range(16), [1.0] * 16)
    events.close()
    steps = [step for step, _ in points(reader(tmp_path / "tensorboard"), "steps/loss")]
    assert steps == [0, 1, 2, 3, 4, 6, 9, 12]


@pytest.mark.fast
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(InputError, match="tensorboard"):
        LiveEvents(tmp_path, tmp_path / "tensorboard").show([row(0, "evaluate", "rate", 0.5)])


def test_a_run_under_way(tiny_config, tmp_path):
    """Each step is there when its training is complete; after the end a TensorBoard that watched has it once."""
    run, seen, watching = tmp_path / "run", [], []

    def look(rows):
        if {r["stage"] for r in rows} == {"evaluate"} and rows[0]["iteration"] == 1:
            watching.append(reader(run / tensorboard_files.FOLDER))
            seen.extend(points(watching[0], "steps/loss"))

    ilf_jax.run(tiny_config, run, on_metrics=look)
    lines = (run / "iteration_001/finetune/steps.jsonl").read_text().splitlines()
    expected = [(step, pytest.approx(json.loads(line)["loss"])) for step, line in enumerate(lines)]
    assert seen == expected
    assert points(watching[0], "steps/loss") == expected == points(reader(run / "tensorboard"), "steps/loss")
    assert sorted(path.stat().st_size > 0 for path in (run / "tensorboard").glob("events.*")) == [False, True]


def test_torch_is_not_imported(tmp_path):
    pytest.importorskip("torch", reason="it is to be installed, and left alone")
    program = ("import sys\nfrom ilf_jax.reporting.live_events import EventFile\n"
               "events = EventFile(__import__('pathlib').Path(sys.argv[1]))\nevents.scalars({'a': 1.0}, 0)\n"
               "events.close()\nassert 'torch' not in sys.modules\nimport torch\n")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
