"""Python's search for cyclic garbage: among young objects after every 700 new ones, and at times among all."""

import contextlib
import gc
from collections.abc import Iterator

_THRESHOLDS = 100_000, 20, 20


@contextlib.contextmanager
def seldom_searched_for() -> Iterator[None]:
    """Inside, or in the function that this decorates, cyclic garbage is looked for once in 100,000 new objects.

    For code that makes very many objects which stay: the records of a hundred thousand documents, say, of which the
    search takes a quarter of the time. Not around device work, for garbage may hold on to the arrays of a device.
    """
    before = gc.get_threshold()
    if before[0]:  # 0: never, as the caller has it
        gc.set_threshold(*(max(pair) for pair in zip(before, _THRESHOLDS, strict=True)))
    try:
        yield
    finally:
        gc.set_threshold(*before)
