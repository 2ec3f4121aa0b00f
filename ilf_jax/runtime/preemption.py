"""SIGTERM, with which schedulers take a machine away: the run saves its state and exits with code 143."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from ilf_jax.runtime import distributed, progress

EXIT_CODE = 143


class _State:
    """Of this process."""

    received = False  # SIGTERM
    protected = False  # SIGTERM waits for a safe point
    points = 0  # safe points passed so far, the same number on every process


_state = _State()


def install() -> None:
    """Makes SIGTERM end the run in order: at once where no work would be lost, because every file is complete.

    Several processes end together at their next safe point, by jax's preemption service.
    """
    if distributed.count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _state.received = True
    if not _state.protected:
        raise SystemExit(EXIT_CODE)


@contextlib.contextmanager
def only_at_safe_points() -> Iterator[None]:
    """Inside, SIGTERM waits for the next `safe_point`, which saves what would be lost, or for the exit."""
    _state.protected = True
    try:
        yield
    finally:
        _state.protected = False
    if _state.received:
        raise SystemExit(EXIT_CODE)


def safe_point(save: Callable[[], None] | None = None) -> None:
    """After SIGTERM, calls `save` and ends the process. All processes call this in the same order."""
    _state.points += 1
    if not (_state.received if distributed.count() == 1 else _all_received(_state.points)):
        return
    if save is not None:
        progress.log("SIGTERM: saving; the same command resumes from here")
        save()
    raise SystemExit(EXIT_CODE)


def _all_received(point: int) -> bool:
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(point)
