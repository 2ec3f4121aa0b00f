"""One writer a folder of a bucket: the lease on real servers, raced for, lost, taken over."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import object_stores
import pytest

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import conditional_writes, lease
from ilf_jax.runtime.lease import Holder, Timing

QUICK = Timing(renew=0.2, stale=1.5, sure=0.8, look=0.05)
LIVELY = dataclasses.replace(QUICK, renew=0.05, stale=60.0, sure=40.0)
ELSEWHERE = {"machine": "another", "host": "node7", "pid": 77}
PAIRS = 20


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def store(request):
    with object_stores.started(request.param) as started, object_stores.used_here(started):
        yield started


@pytest.fixture
def folder(store, request):
    """The URI of a folder of this test alone."""
    return f"{store.uri}/{request.node.originalname}"


def put(folder, **of_holder):
    """A lease that nobody renews."""
    holder = dataclasses.replace(lease.this_process({}), **of_holder)
    return holder, conditional_writes.create_if_absent(f"{folder}/{lease.NAME}", holder.content())


def seconds_to_take(folder, **of_me):
    start = time.monotonic()
    taken = lease.take(folder, QUICK, dataclasses.replace(lease.this_process({}), **of_me))
    seconds = time.monotonic() - start
    taken.check()
    taken.release()
    assert conditional_writes.read(f"{folder}/{lease.NAME}") is None
    return seconds


def test_conditional_writes(folder):
    uri = f"{folder}/a b%"
    assert conditional_writes.read(uri) is None
    first = conditional_writes.create_if_absent(uri, b"1")
    assert conditional_writes.create_if_absent(uri, b"2") is None
    assert conditional_writes.read(uri) == (b"1", first)
    second = conditional_writes.replace_if_unchanged(uri, b"3", first)
    assert conditional_writes.replace_if_unchanged(uri, b"4", first) is None
    with pytest.raises(OSError):
        conditional_writes.delete_if_unchanged(uri, first)
    assert conditional_writes.read(uri) == (b"3", second)
    conditional_writes.delete_if_unchanged(uri, second)
    assert conditional_writes.replace_if_unchanged(uri, b"5", second) is None
    assert conditional_writes.read(uri) is None


def test_a_write_whose_answer_is_lost_counts(store, folder):
    uri, lost = f"{folder}/x", []

    def lose(request):
        lost.append(request.kind == "write" and len(lost) == 0)
        return lost[-1]

    with store.proxy.settings(lose=lose):
        version = conditional_writes.create_if_absent(uri, b"ours")
    assert lost[:2] == [True, False] and conditional_writes.read(uri) == (b"ours", version)


def test_a_conflict_passes_and_a_store_without_conditions_is_refused(store, folder):
    def before(request):
        store.proxy.failing = 1.0 if request.number < 3 else 0.0

    with store.proxy.settings(before=before, failing=1.0, status=409):
        assert conditional_writes.create_if_absent(f"{folder}/x", b"1")
        assert len(store.proxy.requests) == 3
    with store.proxy.settings(failing=1.0, status=501), pytest.raises(InputError, match="no conditional writes"):
        conditional_writes.create_if_absent(f"{folder}/y", b"1")


_RACER = """
import json, sys, time
from ilf_jax.errors import TryAgainError
from ilf_jax.runtime import lease
timing = lease.Timing(*json.loads(sys.argv[1]))
lease.this_process()
for line in sys.stdin:
    folder, start = json.loads(line)
    time.sleep(max(0, start - time.time()))
    try:
        taken, said = lease.take(folder, timing), "won"
    except TryAgainError as e:
        taken, said = None, str(e)
    print(json.dumps(said), flush=True)
    sys.stdin.readline()
    if taken:
        taken.check()
        taken.release()
    print(json.dumps("released"), flush=True)
"""


def test_of_two_runs_started_at_once_one_wins(store, folder):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-c", _RACER, json.dumps(dataclasses.astuple(LIVELY))]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, env=environment) for _ in range(2)]

    def ask(text):
        for racer in racers:
            racer.stdin.write(f"{text}\n")
            racer.stdin.flush()
        return [json.loads(racer.stdout.readline()) for racer in racers]

    winners = []
    for i in range(PAIRS):
        said = ask(json.dumps([f"{folder}/{i}", time.time() + 0.05]))
        assert said.count("won") == 1, said
        winners.append(said.index("won"))
        loser = said[1 - winners[-1]]
        assert f"another run is using it: process {racers[winners[-1]].pid} on " in loser and "renewed 2" in loser
        assert ask("") == ["released"] * 2
    for racer in racers:
        racer.stdin.close()
        assert racer.wait() == 0
    print(f"{store.scheme}: {PAIRS} pairs, one winner each; the first process won {winners.count(0)}")


def child(code, folder):
    """A process that takes the lease, says so, and then does what `code` says, line by line of its input."""
    text = ("import sys\nfrom ilf_jax.runtime import lease\n"
            f"taken = lease.take({folder!r}, lease.Timing{dataclasses.astuple(QUICK)})\nprint('taken', flush=True)\n"
            f"sys.stdin.readline()\n{code}")
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "taken\n", process.stderr.read()
    return process


def test_a_killed_run_is_replaced_at_once(folder):
    process = child("", folder)
    process.send_signal(signal.SIGKILL)  # and not reaped, as by a parent that starts it again
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert seconds_to_take(folder) < QUICK.stale
    process.communicate()


def test_a_stopped_run_writes_no_more(folder):
    process = child("taken.check()", folder)
    process.send_signal(signal.SIGSTOP)
    assert seconds_to_take(folder, **ELSEWHERE) >= QUICK.stale
    process.send_signal(signal.SIGCONT)
    said = process.communicate("\n")[1]
    assert process.returncode == 1 and "TryAgainError" in said and "this run no longer holds" in said


def test_an_earlier_attempt_is_replaced_at_once(folder):
    put(folder, **ELSEWHERE, job="Slurm job 12", attempt=1)
    assert seconds_to_take(folder, job="Slurm job 12", attempt=2) < QUICK.stale


@pytest.mark.parametrize("mine", [{"job": "Slurm job 12", "attempt": 1}, {"job": "Slurm job 13", "attempt": 2}, {}])
def test_a_silent_holder_is_waited_for(folder, mine, caplog):
    put(folder, **ELSEWHERE, job="Slurm job 12", attempt=1)
    assert seconds_to_take(folder, **mine) >= QUICK.stale
    said = caplog.text
    assert "held by process 77 on node7 (Slurm job 12, attempt 1), since 2" in said and "not renewed for 1.5 s" in said


def test_one_late_renewal_is_no_sign_of_life(store, folder):
    holder, version = put(folder, **ELSEWHERE)
    looks = []

    def before(request):
        looks.append(request)
        if len(looks) == 9:
            conditional_writes.replace_if_unchanged(f"{folder}/{lease.NAME}", holder.renew().content(), version)

    with store.proxy.settings(before=before):
        assert seconds_to_take(folder) >= QUICK.stale


def test_a_holder_that_renews_is_left_alone(folder):
    taken = lease.take(folder, LIVELY)
    with pytest.raises(TryAgainError, match=f"another run is using it: process {os.getpid()} on .*renewed 2.*end it"):
        lease.take(folder, LIVELY, dataclasses.replace(lease.this_process({}), machine="another"))
    taken.check()
    taken.release()


def test_what_is_no_lease_is_waited_for(folder):
    conditional_writes.create_if_absent(f"{folder}/{lease.NAME}", b'{"token": 3}')
    assert seconds_to_take(folder) >= QUICK.stale


def test_an_outage_loses_no_lease(store, folder):
    taken = lease.take(folder, QUICK)
    with store.proxy.settings(out=True):
        time.sleep(QUICK.stale)
    taken.check()
    with store.proxy.settings(out=True):
        taken.release()  # without waiting for the bucket
    assert seconds_to_take(folder, **ELSEWHERE) >= QUICK.stale


def test_an_outage_does_not_make_a_lease_old(store, folder):
    """Whoever waits sees as little as the holder can do."""
    timing = dataclasses.replace(QUICK, stale=3.0, sure=2.0)
    holder = lease.take(folder, timing)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(lease.take, folder, timing, dataclasses.replace(lease.this_process({}), **ELSEWHERE))
        with store.proxy.settings(out=True):
            time.sleep(2 * timing.stale)
        with pytest.raises(TryAgainError, match="another run is using it"):
            waiting.result()
    holder.check()
    holder.release()


def test_the_job_and_its_attempt():
    slurm = {"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "a", "SLURM_RESTART_COUNT": "3"}
    jobset = {"JOBSET_NAME": "ilf", "JOBSET_RESTART_ATTEMPT": "2"}
    for environment, wanted in ((slurm, ("Slurm job a 12", 3)), ({"SLURM_JOB_ID": "12"}, ("Slurm job 12", 0)),
                                (jobset, ("JobSet ilf", 2)), ({}, ("", 0))):
        me = lease.this_process(environment)
        assert (me.job, me.attempt) == wanted and not me.is_dead_for(me)
    assert isinstance(me, Holder) and me.content() != me.renew().content()
