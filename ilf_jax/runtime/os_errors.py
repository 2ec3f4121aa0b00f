"""Errors of the operating system in words, whichever library ran into them and whatever it raised."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import storage

INTACT = "what was written before is intact, and the same command resumes from there"
REMOVED = "the folder was removed, or renamed, while the run was going on; start it again in a folder that stays"
# Code -> what to do about it. These are about the place, whatever was being done there.
_ADVICE = {
    errno.ENOSPC: f"free some space; {INTACT}",
    errno.EDQUOT: f"free some space, or ask for a larger quota; {INTACT}",
    errno.EFBIG: f"raise the limit on the size of a file (ulimit -f), or take another file system; {INTACT}",
    errno.EROFS: f"mount it writable, or take another --workdir; {INTACT}",
    errno.EIO: f"the disk, or the connection to it, fails: see the system's log; {INTACT}",
    errno.ESTALE: f"the network file system has lost the file: mount it again; {INTACT}",
    errno.ENOTCONN: f"the network file system is not connected: mount it again; {INTACT}",
    errno.ETIMEDOUT: f"the network file system does not answer; {INTACT}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n); {INTACT}",
    errno.ENFILE: f"too many files are open on this machine; {INTACT}",
}
# These may be about any file, a user's code included: they are explained where they are about a run's own.
_ADVICE_OF_OWN = {
    errno.ENOENT: REMOVED,
    errno.ENOTDIR: REMOVED,
    errno.EACCES: f"allow this user to write there; {INTACT}",
    errno.EPERM: f"allow this user to write there; {INTACT}",
    errno.ENAMETOOLONG: "take a shorter path",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_NETWORKS = (errno.ETIMEDOUT, errno.ENOTCONN)
# tensorstore writes [os_error_code='28'] behind the words.
_IN_TEXT = re.compile(r"os_error_code=.(\d+)")


def code(error: BaseException | None, *, own: bool = True) -> int | None:
    """The code (errno) of an error of the operating system, or of one that stands behind it or in its text.

    Args:
        error: as it was raised.
        own: whether it is about the run's files. If not, of what only a text says, a full disk alone counts, and of
            networks nothing: other processes, hubs and users' code time out, too.
    """
    in_text = _ADVICE if own else _FULL
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno if own or error.filename or error.errno not in _OF_NETWORKS else None
        text = str(error)
        if match := _IN_TEXT.search(text):
            return int(match[1])
        if found := next((number for number in in_text if os.strerror(number) in text), None):
            return found
        error = error.__cause__ or error.__context__
    return None


def in_words(where: storage.Path | str, error: BaseException, *, own: bool = True) -> str | None:
    """What happened to a file and what to do about it; None where no error of the operating system is the cause.

    Args:
        where: the file or folder.
        error: as it was raised.
        own: whether the file is the run's. Of others, only errors that are the place's are explained.
    """
    number = code(error, own=own)
    advice = _ADVICE.get(number or 0) or (_ADVICE_OF_OWN.get(number or 0) if own else None)
    if number is None or (advice is None and not own):
        return None
    if number == errno.ENOSPC and isinstance(error, OSError) and error.filename:
        where = error.filename
    return f"{where}: cannot be written: {os.strerror(number)}: {advice or INTACT}"


@contextlib.contextmanager
def explained(where: storage.Path, *, own: bool = True) -> Iterator[None]:
    """Turns errors of the operating system into an InputError with the words of `in_words`; others pass."""
    try:
        yield
    except (InputError, TryAgainError):
        raise
    except Exception as e:
        words = in_words(where, e, own=own)
        if words is None:
            raise
        raise InputError(words) from e
