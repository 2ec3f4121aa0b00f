"""What a command does with an exception: one line for bad input, three for what nobody foresaw, never a traceback."""

import contextlib
import functools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import distributed, os_errors, preemption, progress, storage

BAD_INPUT, UNFORESEEN, INTERRUPTED = 2, 70, 130
"""Exit codes."""
Main = Callable[[Sequence[str]], int]


def guarded(what: str, folder: Callable[[], str | None]) -> Callable[[Main], Main]:
    """Decorates the main function of a command, which takes the arguments and returns the exit code.

    Args:
        what: the command is doing, unless a stage that is under way says so.
        folder: gives the work folder, None where there is none.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def guarded_main(argv: Sequence[str]) -> int:
            try:
                return main(argv)
            except InputError as e:
                return _say(BAD_INPUT, f"error: {e}")
            except TryAgainError as e:
                return _say(distributed.TRY_AGAIN, f"error: {e}")
            except KeyboardInterrupt:
                return _say(INTERRUPTED, "SIGINT: stopped; the same command resumes from here")
            except Exception as e:
                return _report(e, progress.doing() or what, folder())

        return guarded_main

    return decorate


@contextlib.contextmanager
def at_once_when_stopped() -> Iterator[None]:
    """Inside, an exit after SIGINT or SIGTERM ends the process without taking the interpreter apart.

    XLA's threads may still be at work on what was stopped, and crash when that goes away under them. Several processes
    say goodbye to each other instead; but one that fails may be the only one, so it waits for nobody.
    """
    try:
        yield
    except SystemExit as e:
        stopped = e.code in preemption.EXIT_CODES.values()
        if isinstance(e.code, int) and e.code and stopped == (distributed.count() == 1):
            distributed.leave(e.code)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(e.code)
        raise


def _say(code: int, *lines: str) -> int:
    print(*lines, sep="\n", file=sys.stderr)
    return code


def _report(error: Exception, what: str, folder: str | None) -> int:
    """An error of the disk in words, with the code of bad input; of anything else the three lines."""
    words = os_errors.in_words(folder or "a file", error, own=False)
    if words is not None:
        return _say(BAD_INPUT, f"error: {words}")
    first = (str(error).splitlines() or [""])[0][:300]
    return _say(
        UNFORESEEN, f"error: {what}: an error that nobody foresaw, {type(error).__name__}: {first}",
        f"The work folder {folder} is intact: the same command goes on from what it holds." if folder
        else "What was complete before is so still.",
        f"The traceback is in {_write_traceback(error, folder)}; please send it to the authors.")


def _write_traceback(error: Exception, folder: str | None) -> str:
    """Into the work folder if it can be written, else into the system's folder for temporary files."""
    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    places = [Path(tempfile.gettempdir())]
    if folder and storage.is_local(storage.path(folder)):
        places.insert(0, storage.local(folder))
    for place in places:
        try:
            (place / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return str(place / name)
    print(text, file=sys.stderr)
    return "the lines above, for it could not be written to a file"
