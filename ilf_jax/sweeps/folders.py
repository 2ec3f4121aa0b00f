"""Where a sweep keeps its cells: `cells/NAME/` is a cell's work folder, `cells/NAME.log` its output, `cells/NAME.done`
marks it as complete, and `cells/NAME.lock` is held by whoever runs it or moves it."""

import contextlib
import json
from collections.abc import Mapping

from ilf_jax.data import reviewed
from ilf_jax.runtime import files, storage
from ilf_jax.sweeps import grid
from ilf_jax.sweeps.grid import Cell


def cell_folder(workdir: storage.Path, cell: Cell) -> storage.Path:
    """A cell's work folder."""
    return workdir / "cells" / grid.name(cell)


def beside(folder: storage.Path, ending: str) -> storage.Path:
    """A file that belongs to a cell's work folder."""
    return folder.with_name(folder.name + ending)  # with_suffix would cut the name at its last dot


def is_done(workdir: storage.Path, cell: Cell) -> bool:
    """Whether a cell is complete."""
    return beside(cell_folder(workdir, cell), ".done").exists()


def waits(workdir: storage.Path, cell: Cell) -> bool:
    """Whether a cell waits for people to write feedback."""
    folder = cell_folder(workdir, cell)
    if not folder.is_dir() or is_done(workdir, cell):
        return False
    return reviewed.waiting(folder) is not None or bool(reviewed.waiting_baselines(folder))


def claim(workdir: storage.Path, cell: Cell) -> contextlib.AbstractContextManager[None]:
    """Inside, no other process runs the cell, or moves it. Raises InputError if one does."""
    folder = cell_folder(workdir, cell)
    if not storage.is_local(folder):
        return contextlib.nullcontext()  # the cell's own run holds the lease of its folder
    return files.lock(folder.parent, f"--workdir {workdir}: another process runs the cell {grid.name(cell)}; wait for "
                                     "it, or run another cell", beside(folder, ".lock").name)


def done_text(data: Mapping[str, str], seconds: float | None = None) -> str:
    """What a `.done` file holds: `data_digests.of` the cell's config before it was run, and the seconds it took."""
    return json.dumps({**({} if seconds is None else {"seconds": round(seconds, 1)}), "data": data})


def data_of(workdir: storage.Path, cell: Cell) -> Mapping[str, str]:
    """`data_digests.of` the cell's config when it was run; {} if it is not complete, or nothing was noted."""
    path = beside(cell_folder(workdir, cell), ".done")
    try:
        noted = json.loads(path.read_text(encoding="utf-8")).get("data", {})
    except (OSError, ValueError, AttributeError):  # an empty file marks a cell as complete, too
        return {}
    return noted if isinstance(noted, dict) else {}


def mark_as_incomplete(workdir: storage.Path, cell: Cell) -> None:
    """Lets a complete cell go on."""
    beside(cell_folder(workdir, cell), ".done").unlink(missing_ok=True)


def move(workdir: storage.Path, cell: Cell, to: storage.Path) -> None:
    """Moves all that there is of a cell into another folder."""
    folder = cell_folder(workdir, cell)
    # The mark first: a kill must not leave it without the folder.
    for path in (beside(folder, ".done"), folder, beside(folder, ".log")):
        if path.exists():
            storage.move(path, to / path.name)
