"""SIGTERM, with which schedulers take a machine away, and SIGINT, Ctrl-C: the run saves its state and exits.

The exit code is 143 or 130. A second SIGINT does not wait for the state to be saved.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from ilf_jax.runtime import distributed, progress

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class _State:
    """Of this process."""

    received: signal.Signals | None = None
    protected = False  # signals wait for a safe point
    points = 0  # safe points passed so far, the same number on every process


_state = _State()


def install() -> None:
    """Makes SIGTERM end the run in order: at once where no work would be lost, because every file is complete.

    Several processes end together at their next safe point, by jax's preemption service.
    """
    if distributed.count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)


def install_interrupt() -> None:
    """The same for SIGINT; of several processes, the one that gets it tells the others as SIGTERM would."""
    _state.received = None
    signal.signal(signal.SIGINT, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    again = _state.received == signal.SIGINT == number
    _state.received = signal.Signals(number)
    if distributed.count() > 1 and not again:
        os.kill(os.getpid(), signal.SIGTERM)  # jax's preemption service waits for it
    elif not _state.protected or again:
        _stop("stopped")


def _stop(what: str, save: Callable[[], None] | None = None) -> None:
    received = _state.received or signal.SIGTERM  # another process received it
    if save is not None or received == signal.SIGINT:
        progress.log(f"{received.name}: {what}; the same command resumes from here")
    if save is not None:
        save()
    raise SystemExit(EXIT_CODES[received])


@contextlib.contextmanager
def only_at_safe_points() -> Iterator[None]:
    """Inside, signals wait for the next `safe_point`, which saves what would be lost, or for the exit."""
    _state.protected = True
    try:
        yield
    finally:
        _state.protected = False
    if _state.received and distributed.count() == 1:
        _stop("stopped")


def safe_point(save: Callable[[], None] | None = None) -> None:
    """After a signal, calls `save` and ends the process. All processes call this in the same order."""
    _state.points += 1
    if _state.received if distributed.count() == 1 else _all_received(_state.points):
        _stop("stopped" if save is None else "saving", save)


def _all_received(point: int) -> bool:
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(point)
