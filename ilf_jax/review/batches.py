"""The one writer: changes that arrive together become one transaction, and are acknowledged once it is on the disk.

A commit waits for the disk, whatever is in it. While one does, requests of other reviewers queue up, and the next
commit takes them all.
"""

import asyncio
import dataclasses
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ilf_jax.review.store import Store

T = TypeVar("T")
_MOST = 64  # changes in one transaction


@dataclasses.dataclass
class _Job:
    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None
    noted: list[int] = dataclasses.field(default_factory=list)

    def answer(self) -> None:
        if self.future.cancelled():  # the browser has gone
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Batches:
    """A thread that works on the store, for as many event loops as like."""

    def __init__(self, store: Store, note: Callable[[Sequence[int]], None]) -> None:
        """`note` is called with the items that jobs have named by `note`, after their transaction is on the disk."""
        self._store, self._note = store, note
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._current: _Job | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, once all that it changed is on the disk. It runs in the writer's thread, and is short.

        Raises:
            sqlite3.Error: the transaction failed, perhaps by another change in it; nothing of this one is stored.
            Exception: what `work` raises; what it changed is taken back.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, loop, future))
        return await future

    def note(self, item: int) -> None:
        """Called by `work`: others read what has become of this item from files, which follow before `run` returns."""
        assert self._current is not None
        self._current.noted.append(item)

    def close(self) -> None:
        """Finishes what has been asked for, and ends."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            found = [self._jobs.get()]
            while found[-1] is not None and len(found) < _MOST and not self._jobs.empty():
                found.append(self._jobs.get())
            ended = found[-1] is None
            jobs = [job for job in found if job is not None]
            if jobs:
                self._carry_out(jobs)
            for loop in {job.loop for job in jobs}:  # one wake-up for all
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_answer, [job for job in jobs if job.loop is loop])

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        try:
            with self._store.change():
                for job in jobs:
                    self._current = job
                    try:
                        with self._store.savepoint():
                            job.result = job.work()
                    except Exception as e:
                        job.error = e
                        if not self._store.in_transaction:  # a full disk may have taken everything back
                            raise
        except Exception as e:
            for job in jobs:
                job.error = job.error or e
        noted = [job for job in jobs if job.noted and job.error is None]
        if not noted:
            return
        try:
            self._note(sorted({item for job in noted for item in job.noted}))
        except Exception as e:
            for job in noted:
                job.error = e


def _answer(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.answer()
