"""Cells whose folders hold runs of another configuration, or of other data, than the sweep's file now gives them."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.runtime import config_changes, progress, storage
from ilf_jax.runtime.config_changes import Difference
from ilf_jax.runtime.files import read_sealed
from ilf_jax.sweeps import data_digests, folders
from ilf_jax.sweeps import grid as cells_lib
from ilf_jax.sweeps.grid import Cell, Sweep

_SHOWN = 8
_REPLACED = "replaced"


@dataclasses.dataclass(frozen=True)
class Stale:
    """A cell, and how its configuration (old: in its folder, new: in the sweep's file) has changed; or why that cannot
    be told."""

    cell: Cell
    changes: Sequence[Difference]
    problem: str = ""

    def __str__(self) -> str:
        changes = "".join(f"\n    {change}" for change in self.changes)
        return f"  {cells_lib.name(self.cell)}:{f' {self.problem}' if self.problem else ''}{changes}"


def find(sweep: Sweep, workdir: storage.Path) -> list[Stale]:
    """The cells that have been run, or begun, with another configuration. More iterations only continue a run.

    Complete cells whose data files have changed are among them; one that was only begun refuses other data itself.

    Raises:
        InputError: the config of a cell is wrong.
    """
    found = []
    for cell in sweep.cells:
        config, folder = cells_lib.config_of(sweep, cell), folders.cell_folder(workdir, cell)
        path = folder / "config.json"
        if not path.exists():
            if folders.is_done(workdir, cell):
                found.append(Stale(cell, (), f"{path} is gone, so nothing says what its results belong to"))
            continue
        try:
            changes = _changes(path, config)
        except InputError as e:
            found.append(Stale(cell, (), str(e)))
            continue
        problem = _of_data(folders.data_of(workdir, cell), config)
        if changes or problem:
            found.append(Stale(cell, changes, problem))
    return found


def _of_data(noted: Mapping[str, str], config: config_lib.Config) -> str:
    """A file that is gone changes nothing for a cell that has read it."""
    now = data_digests.of(config)
    changed = [f"config.{key}" for key, digest in noted.items() if now.get(key, digest) != digest]
    return f"the file of {', '.join(changed)} has another content than when the cell was run" if changed else ""


def _changes(path: storage.Path, config: config_lib.Config) -> list[Difference]:
    """Keys that are newer than the folder have their defaults in it."""
    saved = read_sealed(path)
    whole = config_lib.to_dict(config_lib.read(saved))
    hashes = {"source_hashes": saved["source_hashes"]} if "source_hashes" in saved else {}
    old = {**{key: value for key, value in whole.items() if key != "source_hashes"}, **hashes}
    return config_changes.differences(_as_json(old), _as_json(config_lib.to_dict(config)))


def _as_json(tree: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(tree))


def settle(
    sweep: Sweep, workdir: storage.Path, *, rerun: bool, only_look: bool = False, claimed: bool = False
) -> None:
    """Makes sure that what the cells' folders hold is what the sweep's file says.

    Args:
        rerun: move the folders of stale cells aside, to `replaced/N/cells/`, so that they are run again. Nothing is
            deleted: `replaced/N` can be shown with the sweep's file as it was.
        only_look: leave complete cells complete that are to have more iterations.
        claimed: this process has claimed the cells.

    Raises:
        InputError: a cell is stale, and `rerun` is False; or another process runs it; or the config of a cell is wrong.
    """
    stale = find(sweep, workdir)
    if stale and not rerun:
        more = f"\n  and {len(stale) - _SHOWN} more cells" if len(stale) > _SHOWN else ""
        lines = "\n".join(map(str, stale[:_SHOWN]))
        raise InputError(f"--workdir {workdir}: {len(stale)} of {len(sweep.cells)} cells hold runs of another "
                         f"configuration than --config gives them now:\n{lines}{more}\n"
                         "restore the sweep's file, take another --workdir, or give --rerun, which moves their folders "
                         f"aside, to {_REPLACED}/, and runs them again")
    if stale:
        aside = _new_folder(workdir / _REPLACED) / "cells"
        aside.mkdir()
        for one in stale:
            with contextlib.nullcontext() if claimed else folders.claim(workdir, one.cell):
                folders.move(workdir, one.cell, aside)
        progress.log(f"{len(stale)} cells are run again; what they held is in {aside}")
    if not only_look:
        _continue_grown(sweep, workdir)


def _new_folder(parent: storage.Path) -> storage.Path:
    """A new folder with the next number as its name; others may make one at the same time."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / str(max((int(p.name) for p in parent.iterdir() if p.name.isdecimal()), default=0) + 1)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _continue_grown(sweep: Sweep, workdir: storage.Path) -> None:
    """A complete cell that is to have more iterations is no longer complete."""
    for cell in sweep.cells:
        if folders.is_done(workdir, cell):
            done = read_sealed(folders.cell_folder(workdir, cell) / "config.json").get("iterations", 1)
            if cells_lib.config_of(sweep, cell).iterations > done:
                folders.mark_as_incomplete(workdir, cell)
