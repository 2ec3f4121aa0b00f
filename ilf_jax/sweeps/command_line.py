"""Runs the cells of a sweep, skips complete ones, and shows one table of them all, with figures in the folder.

    ilf-jax sweep --config=configs/sweeps/NAME.py --workdir=DIR [--jobs=N] [--dry_run] [--rerun]
    ilf-jax sweep --config=configs/sweeps/NAME.py --workdir=DIR --emit=commands     # or --emit=slurm
    ilf-jax sweep --config=configs/sweeps/NAME.py --workdir=DIR --cell=I            # one of them, from 0
    ilf-jax sweep --config=configs/sweeps/NAME.py --workdir=DIR --table             # of the results so far

Without an installation: python launch/sweep.py with the same flags.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ilf_jax.errors import InputError
from ilf_jax.runtime import last_defence, storage
from ilf_jax.runtime.files import write_atomically
from ilf_jax.sweeps import folders, grid, results, runner, stale


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a file with get_sweep(), FILE[:ARG]")
    parser.add_argument("--workdir", required=True, help="the sweep's folder; a sweep that stopped resumes")
    parser.add_argument("--jobs", type=int, default=1, help="cells to run at once")
    parser.add_argument("--dry_run", action="store_true", help="check and list all cells; run nothing")
    parser.add_argument("--emit", choices=("commands", "slurm"), help="print what would run, for another scheduler")
    parser.add_argument("--table", action="store_true", help="only rebuild the table and the page")
    parser.add_argument("--cell", type=int, help="run only this cell, from 0: for a scheduler with a job for each")
    parser.add_argument("--rerun", action="store_true",
                        help="run cells again whose configuration has changed; their old folders go to replaced/")
    return parser.parse_args(arguments)


@last_defence.guarded("sweeping", lambda: None)
def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if all cells are complete, 1 if some failed, 2 on bad input, 4 if some wait and none failed.

    With --cell, that of the cell's run.
    """
    flags = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cells end, too
    try:
        sweep, workdir = grid.load(flags.config), storage.path(flags.workdir)
        if flags.jobs < 1:
            raise InputError(f"--jobs={flags.jobs}: must be at least 1")
        if flags.table and flags.rerun:
            raise InputError("--rerun runs cells again, and --table runs none")
        if flags.dry_run:
            changed = {grid.name(one.cell): f"changed{one}" for one in stale.find(sweep, workdir)}
            for cell in sweep.cells:
                state = ("done   " if folders.is_done(workdir, cell) else
                         "waiting" if folders.waits(workdir, cell) else "to run ")
                print(changed.get(grid.name(cell), f"{state} {grid.name(cell)}"))
            return 0
        if flags.cell is not None:
            return runner.run_cell(sweep, workdir, flags.cell, rerun=flags.rerun)
        if flags.emit or flags.table:
            stale.settle(sweep, workdir, rerun=flags.rerun, only_look=flags.table)
        if flags.emit:
            print(runner.slurm_script(sweep, workdir) if flags.emit == "slurm" else
                  "\n".join(runner.shell_lines(sweep, workdir)))
            return 0
        unfinished = [] if flags.table else runner.run(sweep, workdir, jobs=flags.jobs, rerun=flags.rerun)
        rows = results.collect(sweep, workdir)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    from ilf_jax.sweeps import page  # loads matplotlib, which takes a second

    table = results.markdown(sweep, rows)
    write_atomically(workdir / "table.md", table)
    write_atomically(workdir / "table.json", json.dumps(results.to_json(sweep, rows), indent=1))
    print(table)
    print(f"report: {page.build(sweep, rows, workdir, title=Path(flags.config).stem)}")
    waiting = [one for one in unfinished if one.waits]
    failed = [one for one in unfinished if not one.waits]
    for one in failed:
        print(f"\nfailed: {one.name} (exit code {one.code}), the end of {one.log}:\n{one.last_lines}",
              file=sys.stderr)
    if waiting:
        print(f"\nwaiting: {len(waiting)} of {len(sweep.cells)} cells wait for feedback from people; write it on the "
              "page of each, then start the same command again:", file=sys.stderr)
        for one in waiting:
            print(f"  ilf-jax review --workdir={shlex.quote(str(one.log.with_name(one.name)))}", file=sys.stderr)
    return 1 if failed else last_defence.WAITING if waiting else 0

