"""An event loop beside the program, which sends requests while the devices work."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ilf_jax.runtime.pending import Pending

T = TypeVar("T")


class EventLoop:
    """An event loop in a thread that ends with the process: one that is told to stop does not wait for a server."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="endpoints", daemon=True).start()

    def start(self, work: Sequence[Coroutine[Any, Any, T]]) -> Pending[list[T]]:
        """Sets all of it to work. The result waits for all, also where one fails: what was asked is paid for."""
        futures = [asyncio.run_coroutine_threadsafe(one, self._loop) for one in work]

        def finish() -> list[T]:
            concurrent.futures.wait(futures)
            return [future.result() for future in futures]

        return Pending(finish)
