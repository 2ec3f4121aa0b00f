"""Whether the other processes of a run live, told by a connection of each to process 0.

A step of several processes waits for all of them, in C++, for as long as it takes: one that is lost, or stopped, would
keep the others for ever. So a thread of each process sends a beat to process 0, or as process 0 to all others. Once one
was silent for `patience` seconds, or its connection has ended, the thread says which one and ends its own process.

The connections are made before jax's own, at the address where jax's service listens afterwards: they need no other
port, and a process that never comes is known by its number.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import json
import os
import select
import selectors
import signal
import socket
import threading
import time
from typing import Any, NoReturn

from ilf_jax.errors import InputError

TRY_AGAIN = 75
"""Exit code of a process that lost another one: the same command resumes the run."""

_RESUME = "start the same command on all of them to resume"
_BEATS = 12  # in `patience`
_LONGEST_INTERVAL = 5.0
# A process that has failed does not always fail alone: the others get so long to say why themselves.
_GRACE_SECONDS = 10.0
_ABORT_SECONDS = _GRACE_SECONDS + 5.0
_HEAD_START_SECONDS = 0.5
_RETRY_SECONDS = 0.2
_LONGEST_MESSAGE = 1 << 20

Message = dict[str, Any]


class _ClosedError(Exception):
    """The other end of a connection has closed it, or does not speak as a process of a run does."""


@dataclasses.dataclass(eq=False)
class _Link:
    """The connection to another process.

    Attributes:
        index: of the other process; None as long as it has not said.
        silent: seconds without a message from it, not counting those in which this process was itself stopped.
        left: whether it has said that it ends.
    """

    socket: socket.socket
    index: int | None = None
    host: str = "?"
    silent: float = 0.0
    left: bool = False
    buffer: bytes = b""

    def send(self, message: Message) -> None:
        """Without waiting. A message that cannot be sent is lost: silence tells as much."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message]:
        """What has come. Raises _ClosedError."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as e:
            raise _ClosedError from e
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        if not data or len(self.buffer) > _LONGEST_MESSAGE:
            raise _ClosedError
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as e:
            raise _ClosedError from e
        if not all(isinstance(message, dict) for message in messages):
            raise _ClosedError
        self.silent = 0.0
        return messages


class Heartbeat:
    """Of this process."""

    def __init__(self, address: str, index: int, count: int, patience: float) -> None:
        """Connects nothing yet; see `join`.

        Args:
            address: HOST:PORT, the coordinator's of jax.
            index: of this process, from 0.
            count: of processes.
            patience: seconds without a sign of life after which a process counts as lost.

        Raises:
            InputError: the address has no port.
        """
        self._index, self._count, self.patience = index, count, patience
        self._host, self._port = _split(address)
        self._address = address
        self._links: dict[int, _Link] = {}
        self._hosts: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._stopped_for = 0.0  # the last time that this process was stopped for longer than `patience`
        self._failed: tuple[float, int, str] | None = None  # when to end, the exit code, why
        self._leaving = False

    @property
    def _interval(self) -> float:
        return min(_LONGEST_INTERVAL, self.patience / _BEATS)

    def join(self) -> None:
        """Waits until all processes are connected, then watches over them in a thread.

        Where some do not come in time, says which, and exits with code 75.

        Raises:
            InputError: the processes do not agree on how many they are, or who is who; or the address is taken.
        """
        if self._index == 0:
            self._gather()
        else:
            self._connect()
        for link in self._links.values():
            link.silent = 0.0
        _joined.append(self)
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        _wait_before_aborting()

    # Before the run: all processes meet.

    def _gather(self) -> None:
        """Process 0 waits for a connection of each other process, and tells all of them that they are complete."""
        end = time.monotonic() + self.patience
        with self._listen(end) as listener:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
            while len(self._links) < self._count - 1:
                left = end - time.monotonic()
                if left <= 0:
                    self._give_up()
                for key, _ in self._selector.select(min(left, self._interval)):
                    if key.data is None:
                        self._open_door(listener)
                    else:
                        self._hear_newcomer(key.data)
                for link in self._links.values():
                    link.send({})
            self._selector.unregister(listener)
        for key in list(self._selector.get_map().values()):
            if key.data.index is None:  # whoever else was at the door
                self._forget(key.data)
        self._hosts = [socket.gethostname(), *(self._links[i].host for i in range(1, self._count))]
        for link in self._links.values():
            link.send({"complete": self._hosts})

    def _listen(self, end: float) -> socket.socket:
        """At the port where jax's service listens next. Until `end`, waits for the port to be free."""
        bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
        host, port = _split(bind) if bind else ("", self._port)
        six = socket.has_dualstack_ipv6() and (not host or ":" in host)
        while True:
            try:
                return socket.create_server((host, port), family=socket.AF_INET6 if six else socket.AF_INET,
                                            backlog=self._count + 16, dualstack_ipv6=six and not host)
            except OSError as e:
                if time.monotonic() > end:
                    raise InputError(f"process 0 cannot listen at {bind or self._address}: {e.strerror or e}") from e
                time.sleep(_RETRY_SECONDS)

    def _open_door(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever knocked has gone again
            connection, _ = listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, _Link(connection))

    def _hear_newcomer(self, link: _Link) -> None:
        try:
            for message in link.receive():
                if link.index is None:
                    self._admit(link, message)
        except _ClosedError:
            self._forget(link)

    def _admit(self, link: _Link, hello: Message) -> None:
        """Raises _ClosedError if it is no process of this run."""
        index, count, host = hello.get("index"), hello.get("count"), hello.get("host")
        if not isinstance(index, int) or not isinstance(host, str):
            raise _ClosedError
        refusal = None
        if count != self._count:
            refusal = f"it was started as one of {count} processes, process 0 as one of {self._count}"
        elif not 0 < index < self._count:
            refusal = f"process {index} is none of 1 to {self._count - 1}"
        elif index in self._links:
            refusal = f"there is another process {index}, on {self._links[index].host}"
        if refusal:
            link.send({"refused": refusal})
            raise _ClosedError
        link.index, link.host = index, host
        self._links[index] = link

    def _give_up(self) -> NoReturn:
        missing = ", ".join(str(i) for i in range(1, self._count) if i not in self._links)
        why = (f"{len(self._links) + 1} of {self._count} processes joined within {self.patience:g} s; missing: "
               f"process {missing}")
        for link in self._links.values():
            link.send({"missing": why})
        _end(f"{why}; {_RESUME}")

    def _connect(self) -> None:
        """Any other process introduces itself to process 0 and waits until it says that all are there."""
        end, why = time.monotonic() + self.patience, "no answer"
        while time.monotonic() < end:
            try:
                connection = socket.create_connection((self._host, self._port), timeout=self.patience)
            except OSError as e:
                why = e.strerror or str(e)
                time.sleep(_RETRY_SECONDS)
                continue
            link = _Link(connection, 0, self._host)
            link.send({"index": self._index, "count": self._count, "host": socket.gethostname()})
            try:
                self._await_the_others(link)
                return
            except (_ClosedError, TimeoutError) as e:
                why = "no answer" if isinstance(e, TimeoutError) else "the connection was closed"
                connection.close()
                time.sleep(_RETRY_SECONDS)
        _end(f"process {self._index} of {self._count} cannot reach process 0 at {self._address} ({why}) within "
             f"{self.patience:g} s; {_RESUME}")

    def _await_the_others(self, link: _Link) -> None:
        """Raises _ClosedError or TimeoutError if process 0 ends, or says nothing for too long."""
        while not self._hosts:
            if not select.select([link.socket], [], [], self.patience)[0]:
                raise TimeoutError
            for message in link.receive():
                if "refused" in message:
                    raise InputError(f"process {self._index}: {message['refused']}")
                if "missing" in message:
                    _end(f"{message['missing']}; {_RESUME}")
                self._hosts = message.get("complete", self._hosts)
        link.host = self._hosts[0]
        link.socket.setblocking(False)
        self._links[0] = link
        self._selector.register(link.socket, selectors.EVENT_READ, link)

    # During the run: a thread.

    def _watch(self) -> None:
        last = beaten = time.monotonic()
        while True:
            for key, _ in self._selector.select(self._interval):
                self._hear(key.data)
            now = time.monotonic()
            self._count_silence(now - last)
            last = now
            if now - beaten >= self._interval:
                beaten = now
                for link in self._links.values():
                    link.send({})
            if self._failed is not None and now > self._failed[0]:
                _end(self._failed[2], self._failed[1])

    def _count_silence(self, seconds: float) -> None:
        """After so many seconds more, ends the process if another was silent for too long."""
        if seconds > self.patience:
            self._stopped_for = seconds
        for index, link in self._links.items():
            # What this process has not been awake for does not count: all of them may have been stopped together.
            link.silent += min(seconds, 2 * self._interval)
            if seconds > self.patience:  # but then the others are asked to show that they are there
                link.silent = max(link.silent, self.patience - 4 * self._interval)
            if link.silent > self.patience and not link.left and not self._leaving:
                self._lose(index, f"was silent for {self.patience:g} s")

    def _hear(self, link: _Link) -> None:
        assert link.index is not None
        try:
            messages = link.receive()
        except _ClosedError:
            self._forget(link)
            if not link.left and not self._leaving:
                self._lose(link.index, "is gone")
            return
        for message in messages:
            if "lost" in message:
                self._lose(message["lost"], message["why"])
            elif "left" in message:
                self._see_off(link, message["index"], message["left"])

    def _see_off(self, link: _Link, index: int, code: int) -> None:
        link.left = link.left or link.index == index
        if self._index == 0:
            for other in self._links.values():
                if other is not link:
                    other.send({"left": code, "index": index})
        if code and self._failed is None:
            why = f"{self._name(index)} ended with exit code {code}; see its log"
            self._failed = (time.monotonic() + min(_GRACE_SECONDS, self.patience), code, why)

    def _lose(self, index: int, why: str) -> NoReturn:
        """Ends this process because another one is lost, or because the others have lost this one."""
        if self._index == 0:
            for link in self._links.values():
                link.send({"lost": index, "why": why})
            time.sleep(_HEAD_START_SECONDS)  # once this process is gone, theirs would abort, with many lines of C++
        if index == self._index:
            why = f"{why}, so the others have ended"
        elif self._stopped_for:
            why = f"{why}; this process, {self._name(self._index)}, had been stopped for {self._stopped_for:.0f} s"
        _end(f"{self._name(index)} {why}; {_RESUME}")

    def _name(self, index: int) -> str:
        return f"process {index} of {self._count} on {self._hosts[index]}"

    def _forget(self, link: _Link) -> None:
        self._selector.unregister(link.socket)
        link.socket.close()
        if link.index is not None:
            self._links.pop(link.index, None)

    # The end: the main thread again.

    def leave(self, code: int) -> None:
        """Tells the others that this process ends. With a code that is not 0, they end with it, too."""
        self._leaving = True
        for link in list(self._links.values()):
            link.send({"left": code, "index": self._index})


_joined: list[Heartbeat] = []


def _say_goodbye() -> None:
    for heartbeat in _joined:
        heartbeat.leave(0)


# Here, before jax is imported: so it comes after jax has waited for all processes to end together.
atexit.register(_say_goodbye)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise InputError(f"--coordinator_address={address}: allowed is HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _end(why: str, code: int = TRY_AGAIN) -> NoReturn:
    """Ends the process, whatever its other threads are at. Does not wait for whoever reads its log."""
    if select.select([], [2], [], 5.0)[1]:
        os.write(2, f"error: {why}\n".encode()[: select.PIPE_BUF])
    os._exit(code)


def _wait_before_aborting() -> None:
    """Makes an abort of C++ wait a little, for this process to end in order if another one is lost.

    When process 0 is gone, jax's client aborts; a callback of Python's cannot prevent that (jaxlib 0.10.2 fails to call
    it), and a handler of Python's own `signal` would run in the main thread, which may be stuck.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    time.sleep(_ABORT_SECONDS)  # then it returns, and the abort goes on
