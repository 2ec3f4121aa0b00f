"""What a run shows while it works: log lines, progress bars, tables. Imports no jax."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
from absl import flags
from absl import logging as absl_logging

from ilf_jax.runtime import distributed

SECONDS_BETWEEN_LINES = 30.0

# A child of absl's logger: our lines pass at level INFO, while libraries that log through absl (above all orbax) stay
# at absl's default, WARNING.
_logger = absl_logging.get_absl_logger().getChild("ilf_jax")
_logger.setLevel(logging.INFO)

_live_bars: list["Progress"] = []
_latest_label = ""


class _PlainFormatter(logging.Formatter):
    """Our own lines as they are, others with absl's prefix of level, time and place."""

    def __init__(self) -> None:
        super().__init__()
        self._others = absl_logging.PythonFormatter()

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) if record.name == _logger.name else self._others.format(record)


def log(message: str) -> None:
    """Logs one line at level INFO: on stderr, above the progress bar if there is one.

    A `--verbosity` below 0 silences these lines. Of several processes, only process 0 logs.
    """
    if not distributed.is_main():
        return
    if flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present and flags.FLAGS.verbosity < 0:
        return
    if _live_bars:
        _live_bars[-1].console.print(message, markup=False, highlight=False, soft_wrap=True)
        return
    if not logging.getLogger().handlers:
        absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    if not isinstance(handler.formatter, _PlainFormatter):
        handler.setFormatter(_PlainFormatter())
    _logger.info("%s", message)


def doing() -> str:
    """What is being done, or was when an exception ended it: the label of the latest `Progress`; "" before the first.

    Once that has ended in order, "after" stands before it.
    """
    return _latest_label


def _set_doing(label: str) -> None:
    global _latest_label
    _latest_label = label


def duration(seconds: float) -> str:
    """Seconds as text: '0.4 s', '12 s', '3:05', '2:00:01'."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _figures_text(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())


class Progress:
    """Progress through `total` units of work: a bar on a terminal, a log line now and then elsewhere.

        with Progress("refine", total=len(documents), done=already) as bar:
            bar.advance(len(batch), tokens_per_second=rate)

    Args:
        label: what is being done.
        total: number of units.
        unit: what is counted, in the plural.
        done: units that an earlier process has done; they count as progress, but not in the rate.
        console: where to draw; stderr if None.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "documents",
        *,
        done: int = 0,
        console: rich.console.Console | None = None,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.console = console or rich.console.Console(stderr=True)
        self._start_done = self.done = done
        self._figures: dict[str, Any] = {}
        self._bar: rich.progress.Progress | None = None
        self._started = self._last_line = 0.0

    @property
    def rate(self) -> float:
        """Units a second in this run; 0 before the first."""
        return (self.done - self._start_done) / max(time.monotonic() - self._started, 1e-9)

    def __enter__(self) -> Self:
        _set_doing(self.label)
        self._started = self._last_line = time.monotonic()
        if not self.console.is_terminal or not distributed.is_main():
            log(f"{self.label}: {self.done} of {self.total} {self.unit} done, starting")
            return self
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[tail]}", markup=False),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, tail="")
        self._bar.start()
        _live_bars.append(self)
        return self

    def advance(self, n: int = 1, **figures: Any) -> None:
        """Counts `n` more units as done and shows `figures` (latest loss, tokens a second) beside the rate."""
        self.done += n
        self._figures.update(figures)
        if self._bar is not None:
            tail = ", ".join(filter(None, [f"{self.rate:.3g} {self.unit}/s", _figures_text(self._figures)]))
            self._bar.update(self._task, completed=self.done, tail=tail)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self._last_line = time.monotonic()
            left = f"{duration((self.total - self.done) / self.rate)} left" if self.rate > 0 else ""
            parts = [f"{self.rate:.3g} {self.unit}/s", left, _figures_text(self._figures)]
            log(f"{self.label}: {self.done} of {self.total} {self.unit}, {', '.join(filter(None, parts))}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            _set_doing(f"after {self.label}")
        if self._bar is not None:
            self._bar.stop()
            _live_bars.remove(self)
            self._bar = None
            return
        took = duration(time.monotonic() - self._started)
        count = f"{self.done} of {self.total}" if self.done != self.total else f"{self.done}"
        ended = f"stopped by {kind.__name__} after" if kind else "done in"
        parts = [f"{ended} {took}", f"{self.rate:.3g} {self.unit}/s", _figures_text(self._figures)]
        log(f"{self.label}: {count} {self.unit}, {', '.join(filter(None, parts))}")


def _is_number(text: str) -> bool:
    return text.lstrip("+-").replace(",", "")[:1].isdigit() or text in ("", "-", "–", "—", "nan")


def _on_one_line(cell: Any) -> str:
    """A cell's text, in which a name from the data neither breaks a line nor speaks to the terminal."""
    text = "" if cell is None else " ".join(str(cell).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def format_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as aligned plain text; columns of numbers are aligned to the right."""
    columns, cells = list(map(_on_one_line, columns)), [list(map(_on_one_line, row)) for row in rows]
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join(filter(None, [title, line(columns), rule, *(line(row) for row in cells)]))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table on stdout: ruled on a terminal, aligned plain text in a pipe or a file."""
    console = rich.console.Console()
    if not console.is_terminal:
        sys.stdout.write(format_table(title, columns, rows) + "\n")
        sys.stdout.flush()
        return
    columns, cells = list(map(_on_one_line, columns)), [list(map(_on_one_line, row)) for row in rows]
    table = rich.table.Table(title=rich.text.Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        right = bool(cells) and all(_is_number(row[i]) for row in cells)
        table.add_column(rich.text.Text(column), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(rich.text.Text(cell) for cell in row))
    console.print(table)
