"""Where a sweep keeps its cells: `cells/NAME/` is a cell's work folder, `cells/NAME.log` its output, and
`cells/NAME.done` marks it as complete."""

from pathlib import Path

from ilf_jax.sweeps import grid
from ilf_jax.sweeps.grid import Cell


def cell_folder(workdir: Path, cell: Cell) -> Path:
    """A cell's work folder."""
    return workdir / "cells" / grid.name(cell)


def beside(folder: Path, ending: str) -> Path:
    """A file that belongs to a cell's work folder."""
    return folder.with_name(folder.name + ending)  # with_suffix would cut the name at its last dot


def is_done(workdir: Path, cell: Cell) -> bool:
    """Whether a cell is complete."""
    return beside(cell_folder(workdir, cell), ".done").exists()


def mark_as_incomplete(workdir: Path, cell: Cell) -> None:
    """Lets a complete cell go on."""
    beside(cell_folder(workdir, cell), ".done").unlink()


def move(workdir: Path, cell: Cell, to: Path) -> None:
    """Moves all that there is of a cell into another folder."""
    folder = cell_folder(workdir, cell)
    # The mark first: a kill must not leave it without the folder.
    for path in (beside(folder, ".done"), folder, beside(folder, ".log")):
        if path.exists():
            path.rename(to / path.name)
