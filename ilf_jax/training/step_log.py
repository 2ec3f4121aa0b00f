"""The log of a training: steps.jsonl in the stage's folder."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.runtime import digests, distributed, files, os_errors, performance, storage

Listener: TypeAlias = Callable[[int, Mapping[str, Any]], None]


def remedy(stage: str) -> str:
    """Advice for a training whose numbers have diverged."""
    return f"A lower config.{stage}.learning_rate or a config.{stage}.clip_norm above 0 may help"


class StepLog:
    """The metrics of every step, one line each. A resumed run overwrites the lines after its checkpoint."""

    def __init__(self, path: storage.Path, stage: str, listener: Listener | None = None) -> None:
        """`listener` is told of each step and its line: of those that a resumed run keeps, then of new ones."""
        self._path, self._stage, self._listener = path, stage, listener
        self._losses: list[float] = []
        self._lines: list[str] = []

    def rewind(self, step: int, digest: str | None = None) -> None:
        """Drops the lines of step `step` and later ones.

        Args:
            step: the number of lines that stay.
            digest: of those lines, as `digest` gave it to the training state that goes on from there.

        Raises:
            InputError: they are not the lines of the first `step` steps.
        """

        def cut() -> list[str]:
            lines = files.read_lines(self._path, self._cure) if self._path.exists() else []
            kept = [line.decode(errors="replace") for line in lines[:step]]
            if digest is not None and digests.of_text(_joined(kept)) != digest:
                raise digests.DamagedError(f"{self._path}: is damaged: its first {step} lines are not those of the "
                                           f"first {step} steps; {self._cure}")
            files.write_atomically(self._path, _joined(kept))
            return kept

        self._lines = distributed.on_main(cut)
        self._losses = [self._loss(number, line) for number, line in enumerate(self._lines, start=1)]
        if self._listener is not None:
            for number, line in enumerate(self._lines):
                self._listener(number, json.loads(line))

    @property
    def _cure(self) -> str:
        return f"restore it, or delete {self._path.parent / 'state'} to train this iteration from its start"

    def _loss(self, number: int, line: str) -> float:
        try:
            row = json.loads(line)
            if row["step"] == number - 1 and math.isfinite(row["loss"]):
                return row["loss"]
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise digests.DamagedError(f"{self._path}:{number}: is not the line of step {number - 1}; {self._cure}")

    def digest(self) -> str:
        """Of the lines so far."""
        return digests.of_text(_joined(self._lines))

    def add(self, step: int, metrics: dict[str, Any]) -> float:
        """Writes a step's metrics and returns its loss. Raises InputError if that is not finite."""
        row = {"step": step, **{name: float(value) for name, value in performance.fetch(metrics).items()}}
        if not np.isfinite(row["loss"]) or not np.isfinite(row["grad_norm"]):
            raise InputError(f"{self._stage}: training stopped, loss {row['loss']}, gradient {row['grad_norm']} at "
                             f"step {step}. The last checkpoint is kept. {remedy(self._stage)}")
        # An objective's own numbers may be undefined for a batch.
        self._lines.append(json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}, allow_nan=False))
        if storage.is_local(self._path) and distributed.is_main():
            with os_errors.explained(self._path), self._path.open("a", encoding="utf-8") as f:
                f.write(self._lines[-1] + "\n")
        self._losses.append(row["loss"])
        if self._listener is not None:
            self._listener(step, {k: v for k, v in row.items() if math.isfinite(v)})
        return row["loss"]

    def flush(self) -> None:
        """Makes all added lines durable: a file in an object store cannot be appended to, so it is written whole."""
        if not distributed.is_main():
            return
        if not storage.is_local(self._path):
            files.write_atomically(self._path, _joined(self._lines))
        elif self._lines:
            with os_errors.explained(self._path), self._path.open("rb") as f:
                os.fsync(f.fileno())

    def mean_of_last(self, count: int) -> float:
        """Mean loss of the last `count` steps."""
        return float(np.mean(self._losses[-count:]))


def _joined(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)
