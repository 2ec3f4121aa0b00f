"""The exception that means "the user can mend this", and how a message shows what the user gave."""

import difflib
import pathlib
from typing import Any

_LONGEST_SHOWN = 60  # characters
_DIGITS = 40


class InputError(Exception):
    """Bad input: says what is wrong, where (file and line, or config key), and what is allowed.

    `main` prints the message alone, without a traceback, and exits with code 2.
    """


class WaitingError(Exception):
    """The run waits for people: nothing is wrong, and the message says what they are to do.

    `main` prints the message alone and exits with code 4; the same command goes on once they have done it.
    """


class TooLongError(InputError):
    """A text leaves no room in a prompt, or in a row to train on. See config.data.too_long."""


class TryAgainError(Exception):
    """Something else is in the way, a server that does not answer say: the same command goes on later.

    `main` prints the message alone and exits with code 75 (`distributed.TRY_AGAIN`), upon which schedulers restart.
    """


def shown(value: Any) -> str:
    """A value of any type and size, for a message: as Python writes it, on one line, and short."""
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        return f"a whole number of more than {_DIGITS} digits"
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}...")
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, lists in thousands of lists
        return "(too large to be shown)"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def near_path(path: pathlib.Path) -> pathlib.Path | None:
    """Of what lies beside a path that does not exist, the one whose name is most like its own; None if none is alike.

    Endings do not count: that two files are both called .jsonl makes their names no more alike.
    """
    try:
        beside = list(path.parent.iterdir())
    except OSError:
        return None
    near = difflib.get_close_matches(path.stem, [p.stem for p in beside], n=1)
    alike = [p for p in beside if p.stem in near]
    return max(alike, key=lambda p: difflib.SequenceMatcher(None, path.name, p.name).ratio(), default=None)
