"""Stops a training whose loss on held-back documents no longer falls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.models.transformer import Params
from ilf_jax.runtime import progress


class EarlyStopping:
    """Keeps the params with the lowest dev loss, those before training included.

    Stops after `patience` epochs without a better loss.
    """

    def __init__(self, patience: int, params: Params) -> None:
        """Args: epochs to wait, and the params before training, which are copied."""
        self._patience, self.best = patience, jax.tree.map(jnp.copy, params)
        self._best_loss, self._worse = float("inf"), 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self._worse >= self._patience

    def score_start(self, loss: float) -> None:
        """Takes the dev loss (nats a token) of the params before training: the one to beat."""
        self._best_loss = loss
        progress.log(f"dev loss {loss:.4f} nats a token before training")

    def score_epoch(self, loss: float, params: Params) -> None:
        """Takes the dev loss (nats a token) after an epoch, and the params that have it."""
        if loss < self._best_loss:
            self.best, self._best_loss, self._worse = jax.tree.map(jnp.copy, params), loss, 0
        else:
            self._worse += 1
        progress.log(f"dev loss {loss:.4f} nats a token, best {self._best_loss:.4f}")

    def to_save(self) -> dict[str, Any]:
        """What a training checkpoint keeps of it."""
        # Host arrays: on several processes, arrays on a device would be one for each process.
        return {"best": self.best, "best_loss": np.array(self._best_loss, np.float32),
                "worse": np.array(self._worse, np.int32)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Resumes from what `to_save` returned."""
        self.best = saved["best"]
        self._best_loss, self._worse = float(saved["best_loss"]), int(saved["worse"])
