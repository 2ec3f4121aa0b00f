"""Checkpoints by Orbax. The only importer of orbax.

A model checkpoint is a folder: `params/` (Orbax), `model.json` (the architecture) and `tokenizer/`, so that it can be
named by `orbax:DIR` alone. Orbax writes aside and renames; a half-written one is never found.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig, RopeScaling
from ilf_jax.runtime import distributed, performance, storage
from ilf_jax.runtime.workdir import write_atomically

T = TypeVar("T")


def save_model(folder: storage.Path, params: Any, config: ModelConfig) -> Callable[[], None]:
    """Begins to write params and architecture; an earlier attempt is replaced.

    Returns:
        Waits until the model is whole. Until then the params must not be donated.

    Raises:
        InputError: they cannot be written; so does what is returned.
    """
    folder = storage.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "params"
    with _context():
        writing = _in_words(place, lambda: ocp.save_async(place, _in_host_memory(params), overwrite=True))

    def wait() -> None:
        _in_words(place, writing.result)
        facts = json.dumps(dataclasses.asdict(config), indent=1) + "\n"
        distributed.on_main(lambda: write_atomically(folder / "model.json", facts))

    return wait


def read_model_config(folder: storage.Path) -> ModelConfig:
    """The architecture of a saved model. Raises InputError if the folder is no model checkpoint."""
    path = folder / "model.json"
    if not path.exists() or not (folder / "params").exists():
        raise InputError(f"orbax:{folder}: is no model checkpoint (a folder with params/ and model.json)")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["rope_scaling"] is not None:
        facts["rope_scaling"] = RopeScaling(**facts["rope_scaling"])
    return ModelConfig(**facts)


def load_model(folder: storage.Path, shapes: Any) -> Any:
    """Params in the shapes, dtypes and shardings of `shapes` (jax.ShapeDtypeStruct leaves).

    Leaves without a sharding are put on the first device.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=s.sharding or here), shapes)
    return ocp.load(storage.path(folder / "params"), placed)


def _context() -> ocp.Context:
    """How arrays are written: as they are. zstd takes three times as long, and spares 8 % of random float32."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.memory.deepcopy_host_arrays = False  # nobody changes those that come here
    return context


def _in_host_memory(params: Any) -> Any:
    """Arrays whole on one CPU device as numpy's, not copied: Orbax writes these in two thirds of the time."""
    devices = {device for leaf in jax.tree.leaves(params) for device in leaf.sharding.device_set}
    if len(devices) > 1 or devices.pop().platform != "cpu":
        return params
    return jax.tree.map(np.asarray, params)


def _in_words(path: storage.Path, write: Callable[[], T]) -> T:
    try:
        with performance.saving():
            return write()
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}; earlier checkpoints are whole") from e


class TrainingCheckpoints:
    """States of a training run under way: numbered by step, the newest is gone on from.

    A state is written while training goes on; it counts once it is whole, and only then older ones are deleted.
    """

    def __init__(self, folder: storage.Path, keep: int = 1) -> None:
        """`keep`: how many states are kept."""
        self._folder, self._keep = storage.path(folder), keep
        self._under_way: tuple[int, Any] | None = None

    def latest(self) -> int | None:
        """Step of the newest complete state."""
        return distributed.on_main(lambda: max(self._steps(), default=None))

    def _steps(self) -> list[int]:
        return [int(p.name) for p in self._folder.glob("[0-9]*") if p.name.isdecimal() and ocp.is_orbax_checkpoint(p)]

    def save(self, step: int, state: Any) -> None:
        """Begins to write the state; returns once its arrays may be used up. Only within `writing`.

        Raises:
            InputError: it, or the one before, cannot be written.
        """
        if self._under_way is not None and self._under_way[0] == step:
            return
        self._wait()
        path = self._folder / str(step)
        self._folder.mkdir(parents=True, exist_ok=True)
        with _context():
            writing = _in_words(path, lambda: ocp.save_async(path, state, overwrite=True))
        self._under_way = step, writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Is left, however that happens, once what was being written is whole. Raises InputError if it cannot be."""
        try:
            yield
        finally:
            self._wait()

    def _wait(self) -> None:
        """Until the state being written is whole; then deletes the oldest beyond those to keep."""
        if self._under_way is None:
            return
        (step, writing), self._under_way = self._under_way, None
        _in_words(self._folder / str(step), writing.result)
        if distributed.is_main():
            for old in sorted(self._steps())[: -self._keep]:
                storage.delete(self._folder / str(old))

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, in the shapes and shardings of `like`."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        return ocp.load(self._folder / str(step), shapes)

    def clear(self) -> None:
        """Deletes all states: training is done."""
        if distributed.is_main():
            storage.delete(self._folder)


class Clock:
    """Says when the next training state is due: every so many steps, or minutes, whichever comes first."""

    def __init__(self, every_steps: int, every_minutes: float) -> None:
        """`every_minutes`: 0 for never by the clock."""
        self._steps, self._seconds, self._last = every_steps, 60 * every_minutes, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be saved."""
        late = self._seconds > 0 and distributed.on_main(lambda: time.monotonic() - self._last > self._seconds)
        if not late and step % self._steps:
            return False
        self._last = time.monotonic()
        return True
