"""Checkpoints by Orbax. The only importer of orbax.

A model checkpoint is a folder: `params/` (Orbax), `model.json` (facts about the model, which this module does not
interpret) and `tokenizer/`, so that `orbax:DIR` names all of it. Orbax writes to a temporary folder and renames it, so
that a partial checkpoint never appears under its name. The digests of its arrays are in it (Orbax's custom metadata),
and what is loaded is compared with them.
"""

import contextlib
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import (
    array_digests,
    checkpoint_places,
    digests,
    distributed,
    os_errors,
    performance,
    progress,
    storage,
)
from ilf_jax.runtime.digests import DamagedError
from ilf_jax.runtime.files import read_sealed, write_json
from ilf_jax.runtime.pending import Pending

_FACTS = "model.json"
_DIGESTS = "digests"
_CURE_OF_MODEL = "restore the checkpoint's folder from a copy; where a run wrote it, delete the run's work folder"

# What a thread of Orbax raises it logs, with a traceback, and raises again where we wait for it.
logging.getLogger("absl").addFilter(lambda record: "_SignalingThread.run() raised" not in str(record.msg))


def save_model(folder: storage.Path, params: Any, facts: dict[str, Any]) -> Pending[None]:
    """Starts to write params, and `facts` about the model as model.json; an earlier attempt is replaced.

    Returns:
        Done when the model is complete on the disk. Until then the params must not be donated.

    Raises:
        InputError: they cannot be written; so does the result.
    """
    folder = storage.path(folder)
    place = folder / "params"
    with _disk_errors_explained(place), _context(place):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _in_host_memory(params)
        written = _save(place, arrays, {_DIGESTS: array_digests.of_tree(arrays, rounded=True)})

    def finish() -> None:
        with _disk_errors_explained(place):
            written()
        distributed.on_main(lambda: write_json(folder / _FACTS, facts))

    return Pending(finish)


def read_model_facts(folder: storage.Path) -> dict[str, Any]:
    """What `save_model` was given about a model. Raises InputError if the folder is not a complete model checkpoint."""
    path = folder / _FACTS
    if not (path.exists() and (folder / "params").exists()):
        raise InputError(f"orbax:{folder}: not a model checkpoint, which is a folder with params/ and {_FACTS}")
    return read_sealed(path)


def load_model(folder: storage.Path, shapes: Any) -> Any:
    """Params in the shapes, dtypes and shardings of `shapes` (jax.ShapeDtypeStruct leaves).

    Leaves without a sharding go to the first device.

    Raises:
        DamagedError: they cannot be read, or are not what was written.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=s.sharding or here), shapes)
    return _load(storage.path(folder / "params"), placed, _CURE_OF_MODEL)[0]


def _load(path: storage.Path, shapes: Any, cure: str) -> tuple[Any, dict[str, Any]]:
    """The arrays, equal to what was written, and the facts that were saved with them.

    Raises:
        DamagedError: they cannot be read, or are not what was written.
    """
    try:
        with checkpoint_places.to_read(path) as place, _context(path), _silent_coroutines():
            metadata = ocp.metadata(_for_orbax(place)).custom_metadata
            arrays = ocp.load(_for_orbax(place), shapes)
    except (InputError, TryAgainError, jax.errors.JaxRuntimeError, MemoryError):
        raise  # the last two: too little memory, or another process is gone
    except Exception as e:  # Orbax and tensorstore raise whatever the damage leads to
        reason = next((line for line in str(e).splitlines() if line.strip()), "")[:300]
        raise DamagedError(f"{path}: cannot be read ({type(e).__name__}: {reason}); {cure}") from e
    # None where Orbax cannot read it.
    facts = digests.unsealed(path, metadata if isinstance(metadata, dict) else {}, cure)
    changed = array_digests.first_changed(arrays, facts[_DIGESTS])
    if changed is not None:
        raise DamagedError(f"{path}: is damaged: the array {changed} is not what was written; {cure}")
    return arrays, facts


def _save(place: storage.Path, arrays: Any, facts: dict[str, Any]) -> Callable[[], None]:
    """Has Orbax write the arrays; what is returned waits until they are in their place as a whole."""

    def start(at: storage.Path) -> Callable[[], None]:
        return ocp.save_async(_for_orbax(at), arrays, custom_metadata=digests.sealed(facts), overwrite=True).result

    if checkpoint_places.is_direct(place) or not isinstance(place, storage.BucketPath):
        return start(place)
    if distributed.count() > 1:
        arrays = jax.tree.map(_whole, arrays)
        if not distributed.is_main():
            return lambda: None
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    with _saving_alone():
        return checkpoint_places.write(place, size, start)


@contextlib.contextmanager
def _saving_alone() -> Iterator[None]:
    """Inside, Orbax does not compare the folder's name between the processes.

    It does so on the devices with all processes of jax, whichever are active in its context: where one saves for all,
    its message would meet the others' next step.
    """
    from orbax.checkpoint.experimental.v1._src.saving import execution  # private, so only where it is needed

    check = execution._check_directory_consistency
    execution._check_directory_consistency = lambda directory: None
    try:
        yield
    finally:
        execution._check_directory_consistency = check


def _whole(array: Any) -> np.ndarray:
    """An array that is spread over the processes, in this host's memory. All processes call this in the same order."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def _for_orbax(place: storage.Path) -> Any:
    return place if storage.is_local(place) else epath.Path(str(place))


@contextlib.contextmanager
def _silent_coroutines() -> Iterator[None]:
    """Where one array cannot be read, those that were read meanwhile fail unheard: Python would print them all."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    except Exception:
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook


def _context(place: storage.Path) -> ocp.Context:
    """How arrays are written: uncompressed. zstd takes three times as long and saves 8 % on float32 params."""
    context = ocp.Context()
    if distributed.count() > 1 and not checkpoint_places.is_direct(place):  # on this machine's disk, for itself
        context.multiprocessing.primary_host = distributed.index()
        context.multiprocessing.active_processes = {distributed.index()}
        context.multiprocessing.barrier_sync_key_prefix = f"process_{distributed.index()}"
    context.array.saving.use_compression = False
    context.memory.deepcopy_host_arrays = False  # nobody changes them while they are written
    return context


def _in_host_memory(params: Any) -> Any:
    """Arrays on a single CPU device as numpy arrays, without a copy: Orbax writes those in two thirds of the time."""
    if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params)):
        return params
    devices = {device for leaf in jax.tree.leaves(params) for device in leaf.sharding.device_set}
    if len(devices) > 1 or devices.pop().platform != "cpu":
        return params
    return jax.tree.map(np.asarray, params)


@contextlib.contextmanager
def _disk_errors_explained(path: storage.Path) -> Iterator[None]:
    with performance.saving(), os_errors.explained(path):
        yield


class TrainingCheckpoints:
    """States of a training run in progress, numbered by step. Training resumes from the newest.

    A state is written while training continues. It counts once it is complete, and only then are older ones deleted.
    """

    def __init__(self, folder: storage.Path, keep: int = 1) -> None:
        """`keep`: how many states are kept."""
        self._folder, self._keep = storage.path(folder), keep
        self._under_way: tuple[int, Pending[None]] | None = None

    def _steps(self) -> list[int]:
        """In a bucket, those that are there as a whole; on a disk, a folder has its name only then."""
        return [int(p.name) for p in self._folder.glob("[0-9]*") if p.name.isdecimal() and (
            ocp.is_orbax_checkpoint(p) if storage.is_local(p) else checkpoint_places.is_complete(p))]

    def latest(self) -> int | None:
        """Step of the newest complete state."""
        return distributed.on_main(lambda: max(self._steps(), default=None))

    def save(self, step: int, state: Any, **facts: Any) -> None:
        """Starts to write the state; when this returns, its arrays may be donated. Only within `writing`.

        Args:
            step: its number.
            state: a tree of arrays.
            facts: what else belongs to it, as JSON; `restore_newest` returns it.

        Raises:
            InputError: this state, or the one before it, cannot be written.
        """
        if self._under_way is not None and self._under_way[0] == step:
            return
        self._wait()
        path = self._folder / str(step)
        with _disk_errors_explained(path), _context(path):
            self._folder.mkdir(exist_ok=True)
            facts[_DIGESTS] = array_digests.of_tree(state)
            written = _save(path, state, facts)
        self._under_way = step, Pending(written)

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
        with _disk_errors_explained(self._folder / str(step)):
            writing.result()
        if distributed.is_main():
            for old in sorted(self._steps())[: -self._keep]:
                storage.delete(self._folder / str(old))

    def restore_newest(self, like: Any) -> tuple[int, Any, dict[str, Any]]:
        """The newest state that is intact, in the shapes and shardings of `like`; there must be one.

        Returns:
            (Step, state, the facts that were saved with it.)

        Raises:
            DamagedError: none is intact. Of several processes, the one that cannot read its part raises it at once.
        """
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        cure = f"restore it from a copy, or delete {self._folder} to train this iteration from its start"
        steps = sorted(distributed.on_main(self._steps), reverse=True)
        for step, older in zip(steps, [*steps[1:], None], strict=True):
            try:
                state, facts = _load(self._folder / str(step), shapes, cure)
            except DamagedError as e:
                # The others have read theirs, unless the digest of the whole, which all have computed, is wrong.
                if older is None or (distributed.count() > 1 and e.__cause__ is not None):
                    raise
                progress.log(f"{str(e).removesuffix(f'; {cure}')}; going on from the state of step {older}")
                continue
            if distributed.is_main():
                for damaged in (newer for newer in steps if newer > step):  # or it would be kept as the newest
                    storage.delete(self._folder / str(damaged))
            return step, state, facts
        raise AssertionError(f"{self._folder}: no state")

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
