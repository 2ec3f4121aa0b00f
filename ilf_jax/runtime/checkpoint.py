"""Checkpoints by Orbax. The only importer of orbax.

A model checkpoint is a folder: `params/` (Orbax), `model.json` (facts about the model, which this module does not
interpret) and `tokenizer/`, so that `orbax:DIR` names all of it. Orbax writes to a temporary folder and renames it, so
that a partial checkpoint never appears under its name.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed, performance, storage
from ilf_jax.runtime.files import read_json, write_atomically
from ilf_jax.runtime.pending import Pending

T = TypeVar("T")
_FACTS = "model.json"


def save_model(folder: storage.Path, params: Any, facts: dict[str, Any]) -> Pending[None]:
    """Starts to write params, and `facts` about the model as model.json; an earlier attempt is replaced.

    Returns:
        Done when the model is complete on the disk. Until then the params must not be donated.

    Raises:
        InputError: they cannot be written; so does the result.
    """
    folder = storage.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "params"
    with _context():
        writing = _disk_errors_explained(place, lambda: ocp.save_async(place, _in_host_memory(params), overwrite=True))

    def finish() -> None:
        _disk_errors_explained(place, writing.result)
        text = json.dumps(facts, indent=1) + "\n"
        distributed.on_main(lambda: write_atomically(folder / _FACTS, text))

    return Pending(finish)


def read_model_facts(folder: storage.Path) -> dict[str, Any]:
    """What `save_model` was given about a model. Raises InputError if the folder is not a complete model checkpoint."""
    path = folder / _FACTS
    if not path.exists() or not (folder / "params").exists():
        raise InputError(f"orbax:{folder}: not a model checkpoint, which is a folder with params/ and {_FACTS}")
    return read_json(path)


def load_model(folder: storage.Path, shapes: Any) -> Any:
    """Params in the shapes, dtypes and shardings of `shapes` (jax.ShapeDtypeStruct leaves).

    Leaves without a sharding go to the first device.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=s.sharding or here), shapes)
    return ocp.load(storage.path(folder / "params"), placed)


def _context() -> ocp.Context:
    """How arrays are written: uncompressed. zstd takes three times as long and saves 8 % on float32 params."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.memory.deepcopy_host_arrays = False  # nobody changes them while they are written
    return context


def _in_host_memory(params: Any) -> Any:
    """Arrays on a single CPU device as numpy arrays, without a copy: Orbax writes those in two thirds of the time."""
    devices = {device for leaf in jax.tree.leaves(params) for device in leaf.sharding.device_set}
    if len(devices) > 1 or devices.pop().platform != "cpu":
        return params
    return jax.tree.map(np.asarray, params)


def _disk_errors_explained(path: storage.Path, write: Callable[[], T]) -> T:
    try:
        with performance.saving():
            return write()
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}; earlier checkpoints are intact") from e


class TrainingCheckpoints:
    """States of a training run in progress, numbered by step. Training resumes from the newest.

    A state is written while training continues. It counts once it is complete, and only then are older ones deleted.
    """

    def __init__(self, folder: storage.Path, keep: int = 1) -> None:
        """`keep`: how many states are kept."""
        self._folder, self._keep = storage.path(folder), keep
        self._under_way: tuple[int, Pending[None]] | None = None

    def latest(self) -> int | None:
        """Step of the newest complete state."""
        return distributed.on_main(lambda: max(self._steps(), default=None))

    def _steps(self) -> list[int]:
        return [int(p.name) for p in self._folder.glob("[0-9]*") if p.name.isdecimal() and ocp.is_orbax_checkpoint(p)]

    def save(self, step: int, state: Any) -> None:
        """Starts to write the state; when this returns, its arrays may be donated. Only within `writing`.

        Raises:
            InputError: this state, or the one before it, cannot be written.
        """
        if self._under_way is not None and self._under_way[0] == step:
            return
        self._wait()
        path = self._folder / str(step)
        self._folder.mkdir(parents=True, exist_ok=True)
        with _context():
            writing = _disk_errors_explained(path, lambda: ocp.save_async(path, state, overwrite=True))
        self._under_way = step, Pending(writing.result)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Its exit, normal or not, waits until the last state is complete. Raises InputError if that cannot be."""
        try:
            yield
        finally:
            self._wait()

    def _wait(self) -> None:
        """Until the state being written is complete; then deletes the oldest beyond those to keep."""
        if self._under_way is None:
            return
        (step, writing), self._under_way = self._under_way, None
        _disk_errors_explained(self._folder / str(step), writing.result)
        if distributed.is_main():
            for old in sorted(self._steps())[: -self._keep]:
                storage.delete(self._folder / str(old))

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, in the shapes and shardings of `like`."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        return ocp.load(self._folder / str(step), shapes)

    def clear(self) -> None:
        """Deletes all states once training is done."""
        if distributed.is_main():
            storage.delete(self._folder)


class Clock:
    """Says when the next training state is due: every so many steps or minutes, whichever comes first.

    Process 0 looks at its clock and all processes follow. Where there are several, it is asked rarely: each answer says
    how many steps to wait before asking again, half of those that fit into the time left at the latest pace.
    """

    def __init__(self, every_steps: int, every_minutes: float) -> None:
        """`every_minutes`: 0 to save by steps alone."""
        self._steps, self._seconds, self._saved_at = every_steps, 60 * every_minutes, time.monotonic()
        self._asked: tuple[int, float] | None = None  # the latest step at which the clock was read, and when that was
        self._wait, self._next = 1, 0  # steps between the latest answer and the next; the step of the next

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be saved. All processes call this after each step."""
        due = step % self._steps == 0 or self._is_late(step)
        if due:
            self._saved_at, self._next = time.monotonic(), step + 1
        return due

    def _is_late(self, step: int) -> bool:
        if not self._seconds or step < self._next:
            return False
        late, self._wait = distributed.on_main(lambda: self._read(step))
        self._next = step + (self._wait if distributed.count() > 1 else 1)
        return late

    def _read(self, step: int) -> tuple[bool, int]:
        """Whether the time is up, and how many steps to wait; that at most doubles, for the pace may be misjudged."""
        now, wait = time.monotonic(), 1
        left = self._seconds - (now - self._saved_at)
        if self._asked is not None:
            pace = (now - self._asked[1]) / max(step - self._asked[0], 1)
            wait = max(1, min(2 * self._wait, int(left / max(pace, 1e-9) / 2)))
        self._asked = step, now
        return left < 0, wait
