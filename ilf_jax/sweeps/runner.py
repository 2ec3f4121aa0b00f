"""Runs the cells of a sweep, each in its own process, and resumes a sweep that was stopped."""

import collections
import contextlib
import ctypes
import dataclasses
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ilf_jax.entry import shipped
from ilf_jax.errors import InputError
from ilf_jax.runtime import last_defence, progress, storage
from ilf_jax.runtime.files import lock, write_atomically
from ilf_jax.sweeps import data_digests, stale
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps.folders import beside, cell_folder, claim, done_text, is_done
from ilf_jax.sweeps.grid import Cell, Sweep

_LOG_LINES = 12
_POLL_SECONDS = 0.2
_SBATCH = shipped.folder("launch") / "slurm.sbatch"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Command = Callable[[Sweep, Cell, storage.Path], list[str]]


def command(sweep: Sweep, cell: Cell, workdir: storage.Path) -> list[str]:
    """The command line that runs a cell."""
    uri, overrides = cells_lib.overrides(sweep, cell)
    flags = [f"--config.{key}={_flag(value)}" for key, value in overrides.items()]
    return [sys.executable, "-m", "ilf_jax.main", f"--config={uri}", f"--workdir={workdir}", *flags]


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shell_lines(sweep: Sweep, workdir: storage.Path) -> list[str]:
    """A shell command for each incomplete cell. It marks the cell as complete, as `run` does."""
    return [f"{shlex.join(command(sweep, cell, folder))} && {_mark(sweep, cell, folder)}"
            for cell, folder in _incomplete(sweep, workdir)]


def _incomplete(sweep: Sweep, workdir: storage.Path) -> list[tuple[Cell, storage.Path]]:
    return [(cell, cell_folder(workdir, cell)) for cell in sweep.cells if not is_done(workdir, cell)]


def _mark(sweep: Sweep, cell: Cell, folder: storage.Path) -> str:
    text = done_text(data_digests.of(cells_lib.config_of(sweep, cell)))
    file = beside(folder, ".done")
    if not storage.is_local(file):
        return shlex.join([sys.executable, "-m", "ilf_jax.sweeps.mark", str(file), text])
    return f"echo {shlex.quote(text)} > {shlex.quote(str(file))}"


def slurm_script(sweep: Sweep, workdir: storage.Path) -> str:
    """A Slurm job array with one task for each incomplete cell. Makes the folder of their logs.

    A task runs its cell by launch/slurm.sbatch, so it saves, requeues itself and resumes as any job does.

    Raises:
        InputError: launch/slurm.sbatch is not beside the package.
    """
    if not _SBATCH.exists():
        raise InputError(f"--emit=slurm: {_SBATCH} is not there; install ilf-jax anew, or run it in a clone")
    incomplete = _incomplete(sweep, workdir)
    if not incomplete:
        return "#!/usr/bin/env bash\n# all cells are complete: nothing to run\n"
    logs = workdir / "cells" if storage.is_local(workdir) else Path("slurm-logs").absolute()
    logs.mkdir(parents=True, exist_ok=True)  # Slurm opens a log before the script runs, and ends the task if it cannot
    python, *_ = command(sweep, *incomplete[0])
    lines = [f"{shlex.join(['bash', str(_SBATCH), *command(sweep, cell, folder)[3:]])} && "
             f"{_mark(sweep, cell, folder)}"
             for cell, folder in incomplete]
    return "\n".join([
        "#!/usr/bin/env bash", f"#SBATCH --array=0-{len(lines) - 1}", f'#SBATCH --output="{logs}/slurm-%A_%a.log"',
        "#SBATCH --open-mode=append", "#SBATCH --signal=TERM@120", "#SBATCH --requeue", "set -euo pipefail",
        f"export PYTHON={shlex.quote(python)}", "commands=(", *(f"  {shlex.quote(line)}" for line in lines), ")",
        "trap ':' TERM # of scancel: the cell gets it, too, and saves",
        'eval "${commands[$SLURM_ARRAY_TASK_ID]}"', "",
    ])


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A cell that failed, or waits for people to write feedback.

    Attributes:
        name: the cell's name.
        code: its exit code; negative: the signal that killed it.
        log: path of its log.
        last_lines: the end of its log.
    """

    name: str
    code: int
    log: storage.Path
    last_lines: str

    @property
    def waits(self) -> bool:
        """Whether it waits."""
        return self.code == last_defence.WAITING


def run(
    sweep: Sweep, workdir: storage.Path, *, jobs: int = 1, make_command: Command = command,
    rerun: bool = False,
) -> list[Unfinished]:
    """Runs the incomplete cells, `jobs` at a time. A cell that fails or waits does not stop the others.

    Args:
        sweep: the sweep.
        workdir: the sweep's folder.
        jobs: number of cells that run at once.
        make_command: returns the command line of a cell, given its work folder.
        rerun: run cells again whose configuration has changed; see `stale.settle`.

    Returns:
        The cells that failed or wait.

    Raises:
        InputError: the config of a cell is wrong, or not that of the run in its folder (checked before anything runs),
            or another process runs this sweep.
    """
    for cell in sweep.cells:
        cells_lib.config_of(sweep, cell)
    taken = f"--workdir {workdir}: another sweep is using it; wait for it or take another folder"
    # In a bucket each cell's run holds the lease of its folder.
    with lock(workdir, taken) if storage.is_local(workdir) else contextlib.nullcontext():
        stale.settle(sweep, workdir, rerun=rerun)
        todo = collections.deque(cell for cell in sweep.cells if not is_done(workdir, cell))
        num_complete = len(sweep.cells) - len(todo)
        running: dict[subprocess.Popen, _Started] = {}
        unfinished: list[Unfinished] = []
        bar = progress.Progress("sweep", len(sweep.cells), "cells", done=num_complete)
        with bar, _terminate_on_exit(running):
            while todo or running:
                while todo and len(running) < jobs:
                    started = _start(sweep, workdir, todo.popleft(), make_command)
                    if isinstance(started, Unfinished):
                        unfinished.append(started)
                        bar.advance(1)
                    else:
                        running[started.process] = started
                time.sleep(_POLL_SECONDS)
                for process in [p for p in running if p.poll() is not None]:
                    started = running.pop(process)
                    ended = _end(started)
                    if ended is not None:
                        unfinished.append(ended)
                    bar.advance(1)
    return unfinished


def run_cell(
    sweep: Sweep, workdir: storage.Path, number: int, *, make_command: Command = command, rerun: bool = False
) -> int:
    """Runs one cell, unless it is complete, and marks it as such. SIGTERM goes on to the cell, which saves.

    Args:
        sweep: the sweep.
        workdir: the sweep's folder; others may run other cells of it at the same time.
        number: of the cell, from 0.
        make_command: see `run`.
        rerun: see `run`.

    Returns:
        The exit code of the cell's run; 128 + N if signal N killed it.

    Raises:
        InputError: there is no such cell, another process runs it, its config is wrong, or not that of the run in its
            folder.
    """
    if not 0 <= number < len(sweep.cells):
        raise InputError(f"--cell={number}: cells are 0 to {len(sweep.cells) - 1}")
    cell = sweep.cells[number]
    cells_lib.config_of(sweep, cell)
    folder, start = cell_folder(workdir, cell), time.monotonic()
    with claim(workdir, cell):
        stale.settle(dataclasses.replace(sweep, cells=[cell]), workdir, rerun=rerun, claimed=True)
        if is_done(workdir, cell):
            progress.log(f"{cells_lib.name(cell)} is complete")
            return 0
        data = data_digests.of(cells_lib.config_of(sweep, cell))
        process = subprocess.Popen(make_command(sweep, cell, folder),
                                   preexec_fn=_die_with_parent if sys.platform == "linux" else None)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        with _terminate_on_exit([process]):
            code = process.wait()
        if code == 0:
            _mark_done(folder, data, start)
    return code if code >= 0 else 128 - code


def _mark_done(folder: storage.Path, data: Mapping[str, str], start: float) -> None:
    write_atomically(beside(folder, ".done"), done_text(data, time.monotonic() - start) + "\n")


@dataclasses.dataclass(frozen=True)
class _Started:
    process: subprocess.Popen
    folder: storage.Path
    log: TextIO
    start_time: float
    data: Mapping[str, str]
    claim: contextlib.ExitStack


def _start(sweep: Sweep, workdir: storage.Path, cell: Cell, make_command: Command) -> _Started | Unfinished:
    """Unfinished if another process runs the cell."""
    folder, claimed = cell_folder(workdir, cell), contextlib.ExitStack()
    try:
        claimed.enter_context(claim(workdir, cell))
    except InputError as e:
        return Unfinished(folder.name, last_defence.BAD_INPUT, beside(folder, ".log"), str(e))
    place = beside(folder, ".log")
    if not storage.is_local(place):  # a bucket's objects do not grow
        place = Path(tempfile.mkdtemp(prefix="ilf_jax-")) / place.name
    log = place.open("a", encoding="utf-8")
    process = subprocess.Popen(make_command(sweep, cell, folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               preexec_fn=_die_with_parent if sys.platform == "linux" else None)
    return _Started(process, folder, log, time.monotonic(), data_digests.of(cells_lib.config_of(sweep, cell)), claimed)


def _die_with_parent() -> None:
    # A run that outlives its killed sweep would hold the lock on its folder when the sweep starts again.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(started: _Started) -> Unfinished | None:
    started.log.close()
    log, code = beside(started.folder, ".log"), started.process.returncode
    if not storage.is_local(log):
        written = Path(started.log.name)
        log.write_bytes((log.read_bytes() if log.exists() else b"") + written.read_bytes())
        shutil.rmtree(written.parent)
    with started.claim:
        if code == 0:
            _mark_done(started.folder, started.data, started.start_time)
            return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Unfinished(started.folder.name, code, log, "\n".join(lines[-_LOG_LINES:]))


@contextlib.contextmanager
def _terminate_on_exit(running: Iterable[subprocess.Popen]) -> Iterator[None]:
    """Terminates the cells and waits for them, however the block ends."""
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
