"""What work cost: seconds, programs compiled or found compiled, seconds spent waiting for the device."""

import dataclasses
import time
from typing import Any, TypeVar

import jax
from jax import monitoring

T = TypeVar("T")


@dataclasses.dataclass
class _Counts:
    """Sums over the life of the process."""

    built_or_loaded: int = 0
    compile_seconds: float = 0.0
    cache_hits: int = 0
    waited_seconds: float = 0.0


_counts = _Counts()


def _on_duration(event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _counts.built_or_loaded += 1
        _counts.compile_seconds += seconds


def _on_event(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _counts.cache_hits += 1


monitoring.register_event_duration_secs_listener(_on_duration)
monitoring.register_event_listener(_on_event)


def fetch(arrays: T) -> T:
    """Arrays from the device, once they are there; the time that takes counts as waiting."""
    start = time.monotonic()
    found = jax.device_get(arrays)
    _counts.waited_seconds += time.monotonic() - start
    return found


class Meter:
    """Measures from its making on.

        meter = Meter()
        ...
        folder.finish(..., cost=meter.cost())
    """

    def __init__(self) -> None:
        self._start, self._before = time.monotonic(), dataclasses.replace(_counts)

    def cost(self, **counted: float) -> dict[str, float]:
        """What the work since then cost, and what else was counted (tokens, say).

        Returns:
            seconds; compilations (programs built anew), cache_hits (programs found compiled), compile_seconds (both);
            host_seconds, in which the host did not wait for the device: the device stood idle for no longer than that.
        """
        before, now = self._before, _counts
        seconds = time.monotonic() - self._start
        hits = now.cache_hits - before.cache_hits
        return {
            "seconds": seconds, "compilations": now.built_or_loaded - before.built_or_loaded - hits,
            "cache_hits": hits, "compile_seconds": now.compile_seconds - before.compile_seconds,
            "host_seconds": seconds - (now.waited_seconds - before.waited_seconds), **counted,
        }
