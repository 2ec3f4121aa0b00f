"""How much of the processor others took while we measured: with much of it, times mean little."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import protocol

_STAT = Path("/proc/stat")


class OthersLoad:
    """From the moment it is made: the share of all cores that went to processes other than these."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._start, self._busy, self._own = time.monotonic(), _busy_seconds(), self._own_seconds()

    def share(self) -> float | None:
        """Between 0 and 1; None where the system does not tell."""
        if self._busy is None:
            return None
        busy, own = _busy_seconds() - self._busy, self._own_seconds() - self._own
        return max(0.0, (busy - own) / ((time.monotonic() - self._start) * protocol.cores()))

    def _own_seconds(self) -> float:
        return sum(_process_seconds(pid) for pid in self._pids) if _STAT.exists() else 0.0


def _busy_seconds() -> float | None:
    """All cores' time in user, nice, system, interrupts, and stolen by a hypervisor, since boot."""
    if not _STAT.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _process_seconds(pid: int) -> float:
    # The name, in parentheses, may hold spaces; the fields behind it do not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
