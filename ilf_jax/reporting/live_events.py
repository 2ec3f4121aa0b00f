"""TensorBoard's files while a run is under way: each training step as it is taken, metrics as stages complete.

A process writes everything anew, from the first step that still counts: what a killed process had written beyond its
last checkpoint goes with its files. Each file starts with a restart at step 0, upon which a TensorBoard that is open
forgets what it has read of the run before. It reads one file after the other, and gets stuck where the one that it has
open is deleted: so the newest of those that no longer count is emptied instead.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ilf_jax.runtime import files, os_errors
from ilf_jax.runtime.told import Rows

FOLDER = "tensorboard"
_EVERY_SECONDS = 10
"""How often steps reach the disk."""
_DENSE = 20_000
"""So many steps are all written; of the next as many every 2nd, then every 3rd, ..."""
_CURVES = {"finetune": "steps", "reward": "reward_steps"}


class EventFile:
    """One file of events. It is written in the caller's thread: where the disk is full, the caller is told."""

    def __init__(self, folder: Path) -> None:
        """Starts the file. Raises InputError if it cannot be written, as all methods do."""
        _import_without_torch()
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self._folder = folder
        with os_errors.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The name has whole seconds only: another file of the same second would be overwritten.
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        self._write(0, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds numbers by tag."""
        from tensorboardX.proto.summary_pb2 import Summary

        self.summary(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)

    def summary(self, summary: Any, step: int = 0) -> None:
        """Adds a Summary of tensorboardX."""
        self._write(step, summary=summary)

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with os_errors.explained(self._folder):
            self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() > self._flushed + _EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts what was added on the disk."""
        with os_errors.explained(self._folder):
            self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        with os_errors.explained(self._folder):
            self._writer.close()


def _import_without_torch() -> None:
    """Imports tensorboardX. It would import torch where that is installed, for tensors: a second that nobody uses."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


def discard_older(folder: Path) -> None:
    """Of the files that the newest one supersedes: empties the last and deletes the others.

    Raises:
        InputError: that cannot be done.
    """
    with os_errors.explained(folder):
        older = sorted(folder.glob("events.out.*"))[:-1]
        for path in older[:-1]:
            path.unlink()
        for path in older[-1:]:
            os.truncate(path, 0)


def numbers(row: Mapping[str, Any], start: str) -> dict[str, float]:
    """What a line of steps.jsonl measured, by tag."""
    return {f"{start}/{name}": value for name, value in row.items()
            if name != "step" and isinstance(value, int | float)}


class LiveEvents:
    """The events of a run, or of a baseline, of this process. Nothing is touched before there is something to write."""

    def __init__(self, work: Path, place: Path) -> None:
        """Args: work: the work folder, on this machine's disk; place: where the events go."""
        self._work, self._place = work, place
        self._file: EventFile | None = None
        self._shown: set[tuple[int, str, str]] = set()
        self._counts: dict[int, int] = {}  # of training steps, by iteration
        self._beside: list[LiveEvents] = []

    def beside(self, name: str, work: Path) -> "LiveEvents":
        """The events of a baseline, which are closed with these."""
        other = LiveEvents(work, self._place / name)
        self._beside.append(other)
        return other

    def show(self, rows: Rows) -> None:
        """Adds those of the lines of metrics.jsonl and performance.jsonl that are new.

        Raises:
            InputError: they cannot be written, or a log of steps is damaged.
        """
        for row in rows:
            key = row["iteration"], row["stage"], row["metric"]
            # What concerns the whole run changes with each stage; the end of the run writes it.
            if key in self._shown or row["value"] is None or row["stage"] == "run":
                continue
            self._shown.add(key)
            self._opened().scalars({f"{row['stage']}/{row['metric']}": row["value"]}, row["iteration"])
            if row["stage"] == "finetune":
                self._catch_up(row["iteration"])
        if self._file is not None:
            self._file.flush()

    def steps(self, stage: str, iteration: int) -> Callable[[int, Mapping[str, Any]], None]:
        """Who is to be told of the steps of a training, in order: number of the step in it, its line of steps.jsonl."""
        for before in range(1, iteration):
            self._catch_up(before)
        offset = sum(self._counts.values())
        return functools.partial(self._add_step, _CURVES[stage], iteration, offset)

    def _add_step(self, curve: str, iteration: int, offset: int, step: int, row: Mapping[str, Any]) -> None:
        if curve == _CURVES["finetune"]:
            self._counts[iteration] = step + 1
        number = offset + step
        if number % (1 + number // _DENSE) == 0:
            self._opened().scalars(numbers(row, curve), number)

    def _catch_up(self, iteration: int) -> None:
        """Writes the steps of a training that was complete before this process."""
        if iteration in self._counts:
            return
        path = self._work / f"iteration_{iteration:03d}" / "finetune" / "steps.jsonl"
        rows = [row for _, row in files.read_json_lines(path)] if path.exists() else []
        offset = sum(self._counts.values())
        self._counts[iteration] = len(rows)
        for step, row in enumerate(rows):
            self._add_step(_CURVES["finetune"], iteration, offset, step, row)

    def _opened(self) -> EventFile:
        if self._file is None:
            self._file = EventFile(self._place)
            discard_older(self._place)
        return self._file

    def close(self) -> None:
        """Ends the files; a baseline's, too."""
        for events in (self, *self._beside):
            if events._file is not None:
                events._file.close()
                events._file = None
