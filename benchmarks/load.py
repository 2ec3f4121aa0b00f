"""CPU time that other processes took while we measured. If they took much, the timings mean little."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import protocol

_STAT = Path("/proc/stat")


class OthersLoad:
    """Share of all cores that processes other than `pids` have used since construction."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._start, self._busy, self._own = time.monotonic(), _busy_seconds(), self._own_seconds()

    def share(self) -> float | None:
        """The share, between 0 and 1; None where the system has no /proc/stat."""
        if self._busy is None:
            return None
        busy, own = _busy_seconds() - self._busy, self._own_seconds() - self._own
        return max(0.0, (busy - own) / ((time.monotonic() - self._start) * protocol.cores()))

    def _own_seconds(self) -> float:
        return sum(_process_seconds(pid) for pid in self._pids) if _STAT.exists() else 0.0


def _busy_seconds() -> float | None:
    """Seconds since boot that all cores spent on user, nice, system, interrupts and steal (by the hypervisor)."""
    if not _STAT.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _process_seconds(pid: int) -> float:
    # The process name, in parentheses, may contain spaces; the fields after it do not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
