"""The log of a training: steps.jsonl in the stage's folder."""

import json
import pathlib
from typing import Any

import numpy as np

from ilf_jax import performance
from ilf_jax.errors import InputError
from ilf_jax.workdir import write_atomically

REMEDY = "A lower config.finetune.learning_rate or a config.finetune.clip_norm above 0 may help"


class StepLog:
    """Loss and the like of every step, a line each; a resumed run overwrites what came after its checkpoint."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._losses: list[float] = []

    def rewind(self, step: int) -> None:
        """Forgets what came from step `step` on."""
        lines = self._path.read_text(encoding="utf-8").splitlines()[:step] if self._path.exists() else []
        self._losses = [json.loads(line)["loss"] for line in lines]
        write_atomically(self._path, "".join(line + "\n" for line in lines))

    def add(self, step: int, metrics: dict[str, Any]) -> float:
        """Writes a step's metrics and returns its loss. Raises InputError if that is no number."""
        row = {"step": step, **{name: float(value) for name, value in performance.fetch(metrics).items()}}
        if not np.isfinite(row["loss"]) or not np.isfinite(row["grad_norm"]):
            raise InputError(f"finetuning stopped: loss {row['loss']}, gradient {row['grad_norm']} at step {step}. "
                             f"The last checkpoint is kept. {REMEDY}")
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        self._losses.append(row["loss"])
        return row["loss"]

    def mean_of_last(self, count: int) -> float:
        """Mean loss of the last `count` steps."""
        return float(np.mean(self._losses[-count:]))
