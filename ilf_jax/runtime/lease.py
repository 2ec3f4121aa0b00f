"""One run writes into a folder of a bucket: it holds the lease, an object that it alone renews.

A bucket has no locks that die with a process, so the lease says who holds it, and its holder writes it anew every few
seconds. A lease whose holder is known to be dead is replaced at once; one that has stayed as it is for a minute, too,
by the clock of whoever waits. Every write is conditional on the version that was seen, so of two runs one wins, and a
holder that was replaced, because it was stopped for minutes say, learns of it before its next write.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import conditional_writes, patience, progress
from ilf_jax.runtime.bucket_path import BucketPath

NAME = ".lease"
"""Of the object in the folder."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds. The defaults are what all runs of a folder must agree on.

    Attributes:
        renew: from one renewal to the next.
        stale: so long without a renewal, and whoever waits takes the lease.
        sure: so long after its last renewal, the holder writes nothing before it has renewed the lease.
        look: from one look at another's lease to the next.
    """

    renew: float = 15.0
    stale: float = 60.0
    sure: float = 40.0
    look: float = 3.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease: what the object says.

    Attributes:
        token: random, of this holder alone.
        job: of a scheduler, '' outside of any.
        attempt: how often the job was started before.
        host: its name.
        machine: the running system, and its processes' name space; equal only where process ids can be compared.
        pid: of the process.
        process_start: when that process started, in the system's own count, so that another of this id is not taken
            for it.
        since: UTC.
        renewed: UTC, by the holder's clock: to be read by people only.
        renewals: how many so far.
    """

    token: str
    job: str
    attempt: int
    host: str
    machine: str
    pid: int
    process_start: int
    since: str
    renewed: str
    renewals: int = 0

    def __str__(self) -> str:
        job = f" ({self.job}, attempt {self.attempt})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}, renewed {self.renewed}"

    def content(self) -> bytes:
        """Of the object."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    def renew(self) -> "Holder":
        """The same, later."""
        return dataclasses.replace(self, renewed=_now(), renewals=self.renewals + 1)

    def is_dead_for(self, other: "Holder") -> bool:
        """Whether another process knows that this one is gone."""
        if self.job and self.job == other.job and self.attempt < other.attempt:
            return True
        return self.machine == other.machine and not _is_running(self.pid, self.process_start)


def this_process(environment: Mapping[str, str] = os.environ) -> Holder:
    """As a new holder."""
    job, attempt = _job(environment)
    return Holder(secrets.token_hex(8), job, attempt, socket.gethostname(), _machine(), os.getpid(),
                  _start_of(os.getpid()) or 0, _now(), _now())


def _job(environment: Mapping[str, str]) -> tuple[str, int]:
    """Name of the scheduler's job, and how often it was started before.

    Slurm counts a requeued job's restarts. JobSet does, too, in an annotation that launch/gke_jobset.yaml hands on.
    """
    for kind, name, attempt in (("JobSet", "JOBSET_NAME", "JOBSET_RESTART_ATTEMPT"),
                                ("Slurm job", "SLURM_JOB_ID", "SLURM_RESTART_COUNT")):
        if environment.get(name):
            count = environment.get(attempt, "")
            of = environment.get("SLURM_CLUSTER_NAME", "") if kind == "Slurm job" else ""
            return " ".join(filter(None, [kind, of, environment[name]])), int(count) if count.isdecimal() else 0
    return "", 0


def _machine() -> str:
    """Two containers of a machine may have the same host name, and other processes under the same ids."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # a system other than Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since the system did; None if it is gone, 0 where systems do not tell."""
    if not os.path.exists("/proc/self/stat"):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return 0
        return 0
    try:
        # After the name, which may hold anything: state, ..., and the start as the 20th (proc_pid_stat(5)).
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_running(pid: int, start: int) -> bool:
    return _start_of(pid) == start


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """A lease that this process holds and renews, in a thread of its own, until `release`."""

    def __init__(self, folder: str, holder: Holder, version: str, written_at: float, timing: Timing) -> None:
        self._folder, self._uri, self._timing = folder, f"{folder}/{NAME}", timing
        self._holder, self._version, self._renewed_at = holder, version, written_at
        self._lost = ""
        self._lock, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._keep_renewing, name="lease", daemon=True).start()

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._timing.renew) and not self._lost:
            try:
                self._renew(self._timing.renew / 2)
            except (InputError, TryAgainError) as e:  # whoever writes next meets the same, and ends the run
                progress.log(f"the lease is not renewed: {e}")

    def _renew(self, unless_younger: float) -> None:
        with self._lock:
            if self._lost or self._ended.is_set() or _clock() - self._renewed_at < unless_younger:
                return
            start, holder = _clock(), self._holder.renew()
            version = conditional_writes.replace_if_unchanged(self._uri, holder.content(), self._version)
            if version is None:
                found = conditional_writes.read(self._uri)
                self._lost = f"which was taken by {_whom(_parse(found))}" if found else "which was deleted"
            else:
                self._holder, self._version, self._renewed_at = holder, version, start

    def check(self) -> None:
        """To be called before each write. Without a request, unless the last renewal was long ago.

        Raises:
            TryAgainError: another run has the lease, or the bucket does not answer.
        """
        if not self._lost and _clock() - self._renewed_at >= self._timing.sure:
            self._renew(self._timing.sure)
        if self._lost:
            raise TryAgainError(f"--workdir {self._folder}: this run no longer holds {self._uri}, {self._lost}; it has "
                                "stopped before it wrote anything more. Let one run use the folder at a time; the same "
                                "command goes on from what it holds")

    def release(self) -> None:
        """Deletes the lease if this process still has it. A bucket that does not answer is not waited for."""
        self._ended.set()
        if not self._lock.acquire(timeout=5.0):
            self._say_kept("the bucket does not answer")
            return
        try:
            if not self._lost:
                conditional_writes.delete_if_unchanged(self._uri, self._version)
        except Exception as e:  # whatever the client raises: the run's own outcome matters more
            self._say_kept(patience.in_words(e))
        finally:
            self._lock.release()

    def _say_kept(self, why: str) -> None:
        progress.log(f"{self._uri}: not released ({why}); the next run may wait for {self._timing.stale:g} s")


def take(folder: str, timing: Timing = Timing(), me: Holder | None = None) -> Lease:
    """Takes the lease of a folder, from a holder that is dead or silent.

    Args:
        folder: a URI such as s3://BUCKET/FOLDER.
        me: who takes it; this process by default.

    Raises:
        TryAgainError: another run holds and renews it; or the bucket does not answer.
        InputError: the bucket is missing, or may not be read or written.
    """
    uri, me = f"{folder}/{NAME}", me or this_process()
    others = _Others(folder, timing, me)
    start = _clock()
    version = conditional_writes.create_if_absent(uri, me.content())
    while version is None:
        start = _clock()
        found = conditional_writes.read(uri)
        if found is None:
            version = conditional_writes.create_if_absent(uri, me.content())
        elif why := others.gone(found):
            version = conditional_writes.replace_if_unchanged(uri, me.content(), found.version)
            if version is not None:
                progress.log(f"{uri}: taken from {_whom(_parse(found))}, {why}")
        else:
            time.sleep(timing.look)
    return Lease(folder, me, version, start, timing)


class _Others:
    """What a process that wants a lease sees of its holders. Their clocks are not compared with ours."""

    def __init__(self, folder: str, timing: Timing, me: Holder) -> None:
        self._folder, self._timing, self._me = folder, timing, me
        self._version, self._since = "", 0.0  # the latest, and since when it is known
        self._token: str | None = None  # of the latest holder
        self._renewals = 0  # that were seen of this holder

    def gone(self, found: conditional_writes.Found) -> str:
        """Why the holder may be replaced; '' if it may not, or not yet. Raises TryAgainError if it is alive."""
        holder, now = _parse(found), _clock()
        token = holder.token if holder else ""
        if token != self._token:
            self._token, self._renewals, self._version, self._since = token, 0, found.version, now
            progress.log(f"{self._folder}/{NAME}: held by {_whom(holder)}; waiting until it is released, or not "
                         f"renewed for {self._timing.stale:g} s")
        elif found.version != self._version:
            self._renewals, self._version, self._since = self._renewals + 1, found.version, now
        if holder is not None and holder.is_dead_for(self._me):
            return "which is gone"
        # Of a process that was killed, one renewal may arrive late, but not two.
        if self._renewals >= 2:
            raise TryAgainError(f"--workdir {self._folder}: another run is using it: {_whom(holder)}; wait for it, end "
                                "it, or take another --workdir")
        return f"not renewed for {self._timing.stale:g} s" if now - self._since >= self._timing.stale else ""


def _parse(found: conditional_writes.Found | None) -> Holder | None:
    """None where no holder can be made out."""
    try:
        value: dict[str, Any] = json.loads(found.content) if found else {}
        holder = Holder(**value)
    except (ValueError, TypeError, RecursionError):
        return None
    for field in dataclasses.fields(Holder):
        if not isinstance(getattr(holder, field.name), int if field.type is int else str):
            return None
    return holder


def _whom(holder: Holder | None) -> str:
    return str(holder) if holder else "a run that it does not name"


_held: list[Lease] = []


def check() -> None:
    """As `Lease.check`, of all leases that this process holds."""
    for lease in tuple(_held):
        lease.check()


@contextlib.contextmanager
def held(folder: BucketPath) -> Iterator[None]:
    """Inside, this process holds the lease of a folder, and checks that before it writes. Raises as `take`."""
    folder.bucket.before_write = check
    lease = take(str(folder))
    _held.append(lease)
    try:
        yield
    finally:
        _held.remove(lease)
        lease.release()
