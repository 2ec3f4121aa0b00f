"""A run for TensorBoard, in `tensorboard/` of its work folder: the run itself, and each baseline beside it.

    STAGE/METRIC            the lines of metrics.jsonl and performance.jsonl; the step is the iteration
    steps/NAME              loss, grad_norm, learning_rate, ... of every training step, counted through all iterations
    reward_steps/NAME       the same of a reward model
    samples/N               a held-out document, and what the policy wrote for it after each iteration
    hparams                 the configuration, with the last iteration's evaluation

While the run is under way, `live_events` writes steps and metrics; at its end, all of this takes their place.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ilf_jax.reporting import live_events, trackers, workfolder
from ilf_jax.reporting.live_events import FOLDER, EventFile
from ilf_jax.reporting.workfolder import WorkFolder
from ilf_jax.runtime import files, os_errors

_SAMPLES = 5
_LONGEST = 4000  # characters of a text; a page of hundreds of them is sent to the browser whole
_MAX_STEPS = 20_000
"""Points of a curve; of longer trainings every 2nd, 3rd, ... step is written."""


def rewrite(workdir: str | Path) -> None:
    """Replaces the events by what the run's files say now.

    The new ones are complete before the old ones are gone: a kill leaves the ones, the others, or both, of which
    TensorBoard shows the newer.

    Args:
        workdir: on this machine's disk.

    Raises:
        InputError: a file of the run is damaged, or the events cannot be written.
    """
    place = Path(workdir) / FOLDER
    fresh = place.with_name(f"{FOLDER}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    run = workfolder.read(workdir)
    with os_errors.explained(place):
        for name, work in {"": run, **run.baselines}.items():
            if work.metrics or work.iterations:
                (place / name).mkdir(parents=True, exist_ok=True)
                path = _write(work, fresh / name)
                path.rename(place / name / path.name)
                live_events.discard_older(place / name)
    shutil.rmtree(fresh, ignore_errors=True)


def _write(work: WorkFolder, folder: Path) -> Path:
    """Returns the file."""
    from tensorboardX.summary import hparams, text

    with contextlib.closing(EventFile(folder)) as events:
        for tag, value, step in (*_scalars(work), *_steps(work)):
            events.scalars({tag: value}, step)
        for tag, said, step in _samples(work):
            events.summary(text(tag, said), step)
        last = max((m.iteration for m in work.metrics), default=0)
        results = {f"evaluate/{m.metric}": m.value for m in work.metrics
                   if (m.iteration, m.stage) == (last, "evaluate")}
        settings = {key: value for key, value in trackers.flat(work.config).items()
                    if isinstance(value, bool | int | float | str)}
        for summary in hparams(settings, results):
            events.summary(summary)
    (path,) = folder.glob("events.out.*")
    return path


def _scalars(work: WorkFolder) -> Iterator[tuple[str, float, int]]:
    for metric in work.metrics:
        yield f"{metric.stage}/{metric.metric}", metric.value, metric.iteration
    costs = work.path / "performance.jsonl"
    for _, row in files.read_json_lines(costs) if costs.exists() else ():
        yield f"{row['stage']}/{row['metric']}", row["value"], row["iteration"]


def _steps(work: WorkFolder) -> Iterator[tuple[str, float, int]]:
    reward = work.path / "iteration_000" / "reward" / "steps.jsonl"
    rows = [row for _, row in files.read_json_lines(reward)] if reward.exists() else []
    yield from _curves("reward_steps", rows)
    yield from _curves("steps", [row for iteration in work.iterations for row in iteration.steps])


def _curves(start: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, int]]:
    for number in range(0, len(rows), -(-len(rows) // _MAX_STEPS) or 1):
        for tag, value in live_events.numbers(rows[number], start).items():
            yield tag, value, number


def _samples(work: WorkFolder) -> Iterator[tuple[str, str, int]]:
    for iteration in work.iterations:
        outputs = iteration.rows("evaluate")
        documents = [e for e in iteration.heldout.values() if e.id in outputs][:_SAMPLES]
        for number, example in enumerate(documents, start=1):
            parts = {"document": example.document, "output": outputs[example.id].text}
            yield f"samples/{number}", "\n\n".join(f"{name}\n\n{_block(text)}" for name, text in parts.items()), (
                iteration.number)


def _block(text: str) -> str:
    """A text as a block of code in Markdown, in which nothing is markup: texts come from data and models."""
    return "\n".join(f"    {line}" for line in text[:_LONGEST].splitlines() or [""])
