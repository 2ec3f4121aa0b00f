"""Which runs a sweep is made of: lists of what each run overrides, put together by product, chain and together."""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax import config as config_lib
from ilf_jax.entry import shipped
from ilf_jax.errors import InputError
from ilf_jax.sweeps import config_files

Cell = dict[str, Any]
"""What one run overrides: config key, without `config.`, -> value; `config` itself -> a config file of its own.

A key that `named` made stands for several.
"""

CONFIG = "config"
# Bytes. File systems take 255, of which the longest file beside a cell's folder, `.NAME.done.tmp`, has ten more.
_LONGEST_NAME = 245


@dataclasses.dataclass(frozen=True)
class Named:
    """Several overrides by one name."""

    label: str
    overrides: Cell

    def __str__(self) -> str:
        return self.label


def named(key: str, **settings: Cell) -> list[Cell]:
    """One cell for each setting; tables call it by its name under `key`, which is not a config key."""
    return [{key: Named(label, overrides)} for label, overrides in settings.items()]


def axis(key: str, *values: Any) -> list[Cell]:
    """One cell for each value of a key."""
    return [{key: value} for value in values]


def chain(*sweeps: Sequence[Cell]) -> list[Cell]:
    """The cells of all, one sweep after another."""
    return [dict(cell) for sweep in sweeps for cell in sweep]


def product(*sweeps: Sequence[Cell]) -> list[Cell]:
    """Each cell of one with each cell of the others; the last one's change fastest.

    Raises:
        InputError: two of them set the same key.
    """
    cells: list[Cell] = [{}]
    for sweep in sweeps:
        cells = [_merge(left, right) for left in cells for right in sweep]
    return cells


def together(*sweeps: Sequence[Cell]) -> list[Cell]:
    """The first cell of each as one cell, then the second of each: zip.

    Raises:
        InputError: they are of different lengths, or two set the same key.
    """
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise InputError(f"together(...): the sweeps have {', '.join(map(str, lengths))} cells; they must be as many")
    return [product(*([cell] for cell in cells))[0] for cells in zip(*sweeps, strict=True)]


def _merge(left: Cell, right: Cell) -> Cell:
    both = left.keys() & right.keys()
    if both:
        raise InputError(f"the sweep sets {', '.join(sorted(both))} twice in one cell")
    return {**left, **right}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a file in configs/sweeps describes.

    Attributes:
        config: the config file of all cells that bring none of their own, path[:arg].
        cells: see `Cell`.
        metrics: what the table shows, "stage/metric" as in metrics.jsonl, of each run's last iteration.
        always: what every cell overrides, without being called by it.
        x: the key that is the figure's x axis; None: no figure.
        x_numbers: where values of that key stand on the axis, if they are no numbers.
        fit: whether a power law with offset is fitted to the first metric over x.
        side_by_side: name of a metric that several stages have; one more figure, the first, shows it of all of them.
        seed: the key over whose values results are averaged.
    """

    config: str
    cells: Sequence[Cell]
    metrics: Sequence[str]
    always: Cell = dataclasses.field(default_factory=dict)
    x: str | None = None
    x_numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    fit: bool = False
    side_by_side: str | None = None
    seed: str = "seed"


def load(path: str) -> Sweep:
    """The sweep that `get_sweep` of `path.py[:arg]`, or of a shipped file by name, returns.

    Raises:
        InputError: the file does not give one, or the sweep has no cells, or two that are alike.
    """
    file, _, arg = shipped.locate(path).partition(":")
    sweep = config_files.call_in_file(file, "get_sweep", *([arg] if arg else []))
    if not sweep.cells:
        raise InputError(f"--config={path}: the sweep has no cells")
    names = [name(cell) for cell in sweep.cells]
    twice = next((n for n, count in collections.Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"--config={path}: two cells are called {twice}")
    if sweep.x is not None and not all(sweep.x in cell for cell in sweep.cells):
        raise InputError(f"--config={path}: the figure is to be drawn over {sweep.x}, which not every cell sets")
    stages = [metric for metric in sweep.metrics if metric.rpartition("/")[2] == sweep.side_by_side]
    if sweep.side_by_side is not None and (sweep.x is None or len(stages) < 2):
        raise InputError(f"--config={path}: side_by_side={sweep.side_by_side!r} takes an x axis and two metrics "
                         f"called so; there are {', '.join(stages) or 'none'}")
    return sweep


def name(cell: Cell) -> str:
    """What a cell is called as a folder: train_size=100,seed=0. A long name ends in a digest of the whole of it."""
    if not cell:
        return "all_as_configured"
    whole = ",".join(re.sub(r"[^\w.=+-]+", "_", f"{spoken(key)}={value}") for key, value in cell.items())
    encoded = whole.encode()
    if len(encoded) <= _LONGEST_NAME:
        return whole
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: _LONGEST_NAME - 17].decode(errors='ignore')}~{digest}"


def spoken(key: str) -> str:
    """A key without its sections."""
    return key.rsplit(".", 1)[-1]


def overrides(sweep: Sweep, cell: Cell) -> tuple[str, Cell]:
    """The config file that a cell begins with, and what it overrides there."""
    whole: Cell = dict(sweep.always)
    for key, value in cell.items():
        whole |= value.overrides if isinstance(value, Named) else {key: value}
    return whole.pop(CONFIG, sweep.config), whole


def config_of(sweep: Sweep, cell: Cell) -> config_lib.Config:
    """The checked configuration of a cell.

    Raises:
        InputError: its config file does not exist, or a key or value is wrong; the cell is named.
    """
    try:
        return config_files.from_file(*overrides(sweep, cell))
    except InputError as e:
        raise InputError(f"cell {name(cell)}: {e}") from e
