"""A process that is lost, stopped or never comes ends the others with a line that names it, wherever they are stuck."""

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime.heartbeat import Heartbeat

ROOT = pathlib.Path(__file__).parents[2]
# Joined, it is stuck in C, as in a step that waits for a process that is gone.
STUCK = """
import ctypes, sys
from ilf_jax.errors import InputError
from ilf_jax.runtime.heartbeat import Heartbeat
address, index, count, patience, leaves, to_join = sys.argv[1:]
heartbeat = Heartbeat(address, int(index), int(count), float(to_join))
try:
    heartbeat.join()
except InputError as e:
    sys.exit(f"error: {e}")
heartbeat.patience = float(patience)
print("joined", flush=True)
if sys.stdin.readline() == "leave\\n":
    if leaves == "0":
        sys.exit(0)
    heartbeat.leave(int(leaves))
    import os
    os._exit(int(leaves))
ctypes.CDLL(None).pause()
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def started(count, *, patience=60, to_join=60, indices=None, leaves=0, counts=None):
    """The processes, of which those of `indices` are started."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen([sys.executable, "-c", STUCK, address, str(i), str((counts or {}).get(i, count)),
                          str(patience), str(leaves), str(to_join)],
                         cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in (range(count) if indices is None else indices)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def end(process):
    """(Exit code, what it said.)"""
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def joined(processes):
    for process in processes:
        assert process.stdout.readline() == "joined\n", process.stderr.read()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 0), (4, 2)])
def test_a_killed_process_ends_the_others(count, victim):
    with started(count) as processes:
        joined(processes)
        processes[victim].kill()
        for process in processes[:victim] + processes[victim + 1:]:
            assert end(process) == (75, f"error: process {victim} of {count} on {socket.gethostname()} is gone; start "
                                        "the same command on all of them to resume\n")


@pytest.mark.parametrize(("count", "victim"), [(2, 1), (3, 0), (4, 3)])
def test_a_stopped_process_ends_the_others_and_itself_once_it_goes_on(count, victim):
    with started(count, patience=2) as processes:
        joined(processes)
        processes[victim].send_signal(signal.SIGSTOP)
        for process in processes[:victim] + processes[victim + 1:]:
            code, said = end(process)
            assert code == 75 and f"process {victim} of {count} on" in said and "was silent for 2 s" in said, said
        processes[victim].send_signal(signal.SIGCONT)
        code, said = end(processes[victim])
        assert code == 75 and said.startswith("error: process") and said.count("\n") == 1, said


def test_processes_that_are_stopped_together_go_on_together():
    with started(3, patience=1.5) as processes:
        joined(processes)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        for process in processes:
            process.send_signal(signal.SIGCONT)
        time.sleep(3.0)
        assert [process.poll() for process in processes] == [None] * 3
        processes[1].kill()
        assert end(processes[0])[0] == end(processes[2])[0] == 75


@pytest.mark.parametrize(("here", "words"), [
    ((0, 2), ["2 of 3 processes joined within 5 s; missing: process 1;"] * 2),
    ((0,), ["1 of 3 processes joined within 5 s; missing: process 1, 2;"]),
    ((1, 2), [f"process {i} of 3 cannot reach process 0 at 127.0.0.1:" for i in (1, 2)]),
])
def test_a_process_that_never_joins(here, words):
    with started(3, to_join=5, indices=here) as processes:
        for process, word in zip(processes, words, strict=True):
            code, said = end(process)
            assert code == 75 and word in said and said.count("\n") == 1, said


def test_whoever_else_is_at_the_door_is_left_there():
    port = free_port()
    command = [sys.executable, "-c", STUCK, f"127.0.0.1:{port}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen([*command, "0", "2", "60", "0", "60"], **pipes)]
    strangers = []
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff" * 999, b"[1]\n", b'{"index": "1"}\n', b""):
        strangers.append(connect(port))
        strangers[-1].sendall(said)
    processes.append(subprocess.Popen([*command, "1", "2", "60", "0", "60"], **pipes))
    joined(processes)
    processes[0].kill()
    assert end(processes[1])[0] == 75
    end(processes[0])
    for stranger in strangers:
        stranger.close()


def connect(port):
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_processes_that_disagree_are_refused():
    with started(3, to_join=6, indices=(0, 1, 1, 2), counts={2: 4}) as processes:
        said = [end(process) for process in processes]
    assert sorted(code for code, _ in said) == [1, 1, 75, 75]
    texts = "".join(text for _, text in said)
    assert "process 1: there is another process 1, on" in texts
    assert "process 2: it was started as one of 4 processes, process 0 as one of 3" in texts
    assert texts.count("2 of 3 processes joined within 6 s; missing: process 2;") == 2


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_process_that_fails_takes_the_others_along(leaver):
    with started(3, patience=1, leaves=2) as processes:
        for process in processes:
            assert process.stdout.readline() == "joined\n"
        processes[leaver].communicate("leave\n")
        for process in processes[:leaver] + processes[leaver + 1:]:
            code, said = end(process)
            assert code == 2 and f"process {leaver} of 3 on" in said and "ended with exit code 2; see its log" in said


def test_a_process_that_is_done_ends_nobody():
    with started(2, patience=1, leaves=0) as processes:
        for process in processes:
            assert process.stdout.readline() == "joined\n"
        for i in (0, 1):
            time.sleep(1.5)
            assert processes[i].poll() is None
            processes[i].communicate("leave\n")
            assert processes[i].returncode == 0


@pytest.mark.parametrize("address", ["host", "host:", "host:port", ""])
def test_an_address_without_a_port_is_refused(address):
    with pytest.raises(InputError, match="allowed is HOST:PORT"):
        Heartbeat(address, 0, 2, 60)


def test_an_address_of_ipv6_is_taken_apart():
    heartbeat = Heartbeat("[::1]:1234", 0, 2, 60)
    assert (heartbeat._host, heartbeat._port) == ("::1", 1234)
