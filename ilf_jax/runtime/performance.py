"""What work costs: seconds, programs compiled or loaded, seconds spent waiting for the device or saving."""

import contextlib
import dataclasses
import pathlib
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from jax import monitoring
from jax.experimental import multihost_utils

from ilf_jax.runtime import hardware, progress, storage

T = TypeVar("T")


@dataclasses.dataclass
class _Counts:
    """Sums over the life of the process."""

    built_or_loaded: int = 0
    compile_seconds: float = 0.0
    cache_hits: int = 0
    waited_seconds: float = 0.0
    saving_seconds: float = 0.0


_counts = _Counts()
_counting = threading.Lock()  # programs are compiled by several threads


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        with _counting:
            _counts.built_or_loaded += 1
            _counts.compile_seconds += duration_secs


def _on_event(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        with _counting:
            _counts.cache_hits += 1


monitoring.register_event_duration_secs_listener(_on_duration)
monitoring.register_event_listener(_on_event)


def fetch(arrays: T) -> T:
    """Whole arrays on the host, once the devices have computed them; this time counts as waiting."""
    start = time.monotonic()
    on_host = jax.device_get(jax.tree.map(_whole, arrays))
    _counts.waited_seconds += time.monotonic() - start
    return on_host


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Time spent inside counts as saving params and states: the host does nothing else."""
    start = time.monotonic()
    try:
        yield
    finally:
        _counts.saving_seconds += time.monotonic() - start


def _whole(array: Any) -> Any:
    """Gathers an array that has parts on other processes."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


class Work(NamedTuple):
    """Work done: tokens through the model's layers, and the FLOPs that the model needs for them."""

    tokens: int = 0
    flops: float = 0.0

    def plus(self, other: "Work") -> "Work":
        """Both together."""
        return Work(self.tokens + other.tokens, self.flops + other.flops)


class Meter:
    """Measures from its construction on.

        meter = Meter()
        ...
        folder.finish(..., cost=meter.cost(work))
    """

    def __init__(self) -> None:
        self._start, self._before = time.monotonic(), dataclasses.replace(_counts)
        self.first_batch: float | None = None
        _without_batch.append(self)

    def cost(self, work: Work = Work(), precision: str = "float32") -> dict[str, float]:  # noqa: B008
        """The cost since then.

        Returns:
            seconds; first_batch_seconds, until the first batch began (see `batch_begins`), where there was one;
            compilations (programs compiled), cache_hits (programs loaded from the cache), compile_seconds (of both);
            host_seconds, in which the host did not wait for the device, an upper bound of the device's idle
            time; saving_seconds, those of them in which the host wrote params and states or waited for that;
            peak_memory, see there; and of `work`: tokens, tokens_per_second_per_device, and mfu where the device's peak
            is known: FLOPs / (seconds x devices x peak FLOP/s) (Chowdhery et al. 2022, appendix B).
        """
        before, now = self._before, _counts
        seconds = time.monotonic() - self._start
        hits = now.cache_hits - before.cache_hits
        cost = {
            "seconds": seconds, "compilations": now.built_or_loaded - before.built_or_loaded - hits,
            "cache_hits": hits, "compile_seconds": now.compile_seconds - before.compile_seconds,
            "host_seconds": seconds - (now.waited_seconds - before.waited_seconds),
            "saving_seconds": now.saving_seconds - before.saving_seconds, "peak_memory": peak_memory(),
        }
        if self.first_batch is not None:
            cost["first_batch_seconds"] = self.first_batch - self._start
        if work.tokens:
            chip = hardware.chip(jax.devices()[0])
            cost |= {"tokens": work.tokens,
                     "tokens_per_second_per_device": work.tokens / seconds / jax.device_count()}
            if chip is not None:
                cost["mfu"] = work.flops / (seconds * jax.device_count() * chip.peak(precision))
        return cost


# Meters that no batch has begun for.
_without_batch: list[Meter] = []


def batch_begins() -> None:
    """Says that the host has prepared a batch and hands it to the device; the first of a stage ends its preparation."""
    for meter in _without_batch:
        meter.first_batch = time.monotonic()
    _without_batch.clear()


def peak_memory() -> int:
    """Peak bytes in use on one of this process's devices so far; on a CPU, of the process."""
    peaks = [stats.get("peak_bytes_in_use", 0) for device in jax.local_devices() if (stats := device.memory_stats())]
    if peaks:
        return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Profile:
    """Records a trace of some steps, for xprof or TensorBoard's profile page."""

    # The first steps compile and fill the pipeline.
    _SKIPPED = 2

    def __init__(self, folder: storage.Path, steps: int) -> None:
        """`steps`: how many to record; 0 for none."""
        self._folder, self._steps, self._seen, self._running = folder, steps, 0, False

    def step(self) -> None:
        """Called before each step."""
        self._seen += 1
        if self._steps and self._seen == self._SKIPPED + 1:
            self._place = self._folder if storage.is_local(self._folder) else pathlib.Path(tempfile.mkdtemp())
            jax.profiler.start_trace(str(self._place))
            self._running = True
        elif self._seen > self._SKIPPED + self._steps:
            self.stop()

    def stop(self) -> None:
        """Called after the last step."""
        if self._running:
            jax.profiler.stop_trace()
            self._running, self._steps = False, 0
            if self._place != self._folder:
                storage.copy(self._place, self._folder)
                storage.delete(self._place)
            progress.log(f"profile written to {self._folder}")
