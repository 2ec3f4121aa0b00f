"""The log of a training: steps.jsonl in the stage's folder."""

import json
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed, performance, storage
from ilf_jax.runtime.files import write_atomically


def remedy(stage: str) -> str:
    """Advice for a training whose numbers have diverged."""
    return f"A lower config.{stage}.learning_rate or a config.{stage}.clip_norm above 0 may help"


class StepLog:
    """The metrics of every step, one line each. A resumed run overwrites the lines after its checkpoint."""

    def __init__(self, path: storage.Path, stage: str) -> None:
        self._path, self._stage = path, stage
        self._losses: list[float] = []
        self._lines: list[str] = []

    def rewind(self, step: int) -> None:
        """Drops the lines of step `step` and later ones."""

        def cut() -> list[str]:
            lines = self._path.read_text(encoding="utf-8").splitlines()[:step] if self._path.exists() else []
            write_atomically(self._path, "".join(line + "\n" for line in lines))
            return lines

        self._lines = distributed.on_main(cut)
        self._losses = [json.loads(line)["loss"] for line in self._lines]

    def add(self, step: int, metrics: dict[str, Any]) -> float:
        """Writes a step's metrics and returns its loss. Raises InputError if that is not finite."""
        row = {"step": step, **{name: float(value) for name, value in performance.fetch(metrics).items()}}
        if not np.isfinite(row["loss"]) or not np.isfinite(row["grad_norm"]):
            raise InputError(f"{self._stage}: training stopped, loss {row['loss']}, gradient {row['grad_norm']} at "
                             f"step {step}. The last checkpoint is kept. {remedy(self._stage)}")
        self._lines.append(json.dumps(row))
        if storage.is_local(self._path) and distributed.is_main():
            with self._path.open("a", encoding="utf-8") as f:
                f.write(self._lines[-1] + "\n")
        self._losses.append(row["loss"])
        return row["loss"]

    def flush(self) -> None:
        """Makes all added lines durable: a file in an object store cannot be appended to, so it is written whole."""
        if not storage.is_local(self._path) and distributed.is_main():
            write_atomically(self._path, "".join(line + "\n" for line in self._lines))

    def mean_of_last(self, count: int) -> float:
        """Mean loss of the last `count` steps."""
        return float(np.mean(self._losses[-count:]))
