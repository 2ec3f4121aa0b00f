"""SIGTERM, by which schedulers take a machine away: what is under way is saved, and the process ends with code 143."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from ilf_jax.runtime import distributed, progress

EXIT_CODE = 143


class _State:
    """Of this process."""

    asked = False  # SIGTERM has come
    protected = False  # and is to wait for a safe point
    points = 0  # passed so far, the same number on every process


_state = _State()


def install() -> None:
    """Makes SIGTERM end the run in order. Between safe points that is at once: what is written is whole.

    Of several processes all end together, at their next safe point; jax's preemption service tells them.
    """
    if distributed.count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _state.asked = True
    if not _state.protected:
        raise SystemExit(EXIT_CODE)


@contextlib.contextmanager
def only_at_safe_points() -> Iterator[None]:
    """Within, SIGTERM waits for the next `safe_point`, which saves what would otherwise be lost, or for the end."""
    _state.protected = True
    try:
        yield
    finally:
        _state.protected = False
    if _state.asked:
        raise SystemExit(EXIT_CODE)


def safe_point(save: Callable[[], None] | None = None) -> None:
    """Where SIGTERM has come, calls `save` and ends the process. Called by all processes, in the same order."""
    _state.points += 1
    if not (_state.asked if distributed.count() == 1 else _all_asked(_state.points)):
        return
    if save is not None:
        progress.log("SIGTERM: saving; the same command goes on from here")
        save()
    raise SystemExit(EXIT_CODE)


def _all_asked(point: int) -> bool:
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(point)
