"""Requests to a server that may not answer: which errors pass by themselves, and how long to try again."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ilf_jax.errors import TryAgainError
from ilf_jax.runtime import progress

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 20.0  # seconds
_FIRST_LINE, _NEXT_LINE = 5.0, 60.0  # seconds of waiting until something is said
# Package and class of what HTTP clients raise where a connection fails. They are not imported here: only one may be
# installed.
_OF_CONNECTIONS = {
    "aiohttp.ClientError", "botocore.ConnectionError", "botocore.HTTPClientError", "botocore.IncompleteReadError",
    "botocore.ResponseStreamingError", "botocore.FlexibleChecksumError", "requests.RequestException",
    "google.TransportError", "gcsfs.ChecksumError",
}
_LASTING = {"aiohttp.InvalidURL", "aiohttp.ClientSSLError", "requests.InvalidURL", "requests.InvalidSchema"}


class _State:
    """Of this process."""

    seconds = 600.0
    said_at = 0.0  # when the latest line was logged
    lock = threading.Lock()


_state = _State()


def set_seconds(seconds: float) -> None:
    """How long a request is tried again, see config.storage.patience."""
    _state.seconds = seconds


def status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of gcsfs or s3fs stands for; None where the server did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = getattr(error, "code", None) or getattr(error, "status", None)
        if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()):
            return int(code)
        if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs
            return 403
        if error.__cause__ is None:
            kinds: dict[type[BaseException], int] = {PermissionError: 403, FileNotFoundError: 404, FileExistsError: 412}
            return next((number for kind, number in kinds.items() if isinstance(error, kind)), None)
        error = error.__cause__
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: 408, 429, 5xx, a timeout, a connection that is lost or refused."""
    code = status(error)
    if code is not None:
        return code in (408, 429) or code >= 500
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & _OF_CONNECTIONS) and not names & _LASTING


def in_words(error: BaseException) -> str:
    """An error in one line."""
    code = status(error)
    text = (str(error).strip().splitlines() or [""])[0][:200]
    if code is not None and code >= 429:
        return f"HTTP {code}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def insist(what: str, request: Callable[[], T]) -> T:
    """What a request returns; one that fails for a passing reason is made again, with jittered, growing pauses.

    Args:
        what: is being waited for, in log lines and in the message of the error.
        request: makes the request; must be safe to repeat.

    Raises:
        TryAgainError: it has failed for as long as `set_seconds` says.
        Exception: what `request` raised, where that does not pass.
    """
    start, wait = time.monotonic(), _FIRST_WAIT
    while True:
        try:
            return request()
        except Exception as e:
            if not is_passing(e):
                raise
            waited = time.monotonic() - start
            if waited >= _state.seconds:
                raise TryAgainError(
                    f"{what}: {in_words(e)}, for {progress.duration(waited)} (config.storage.patience); what was "
                    "written is intact, and the same command goes on from there") from e
            _say(what, e, waited)
        time.sleep(min(random.uniform(wait / 2, wait), max(0.0, _state.seconds - waited)))
        wait = min(2 * wait, _LONGEST_WAIT)


def _say(what: str, error: BaseException, waited: float) -> None:
    """One line a minute, however many threads wait."""
    with _state.lock:
        now = time.monotonic()
        if waited < _FIRST_LINE or (_state.said_at and now - _state.said_at < _NEXT_LINE):
            return
        _state.said_at = now
    progress.log(f"waiting for {what}: {in_words(error)}, for {progress.duration(waited)} of "
                 f"{progress.duration(_state.seconds)}")
