"""The Hugging Face hub: asked so that a machine without a network gets its answer in seconds."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

SECONDS = 3.0
"""Within which the hub answers, or counts as out of reach."""


class Answer(Generic[T]):
    """What was asked for, or why it was not given.

    Attributes:
        value: None if it was not given.
        reason: None if it was given.
    """

    def __init__(self, value: T | None, reason: str | None) -> None:
        self.value, self.reason = value, reason


def ask(question: Callable[[], T]) -> Answer[T]:
    """The hub's answer, within a few seconds.

    In a thread, for the timeout of an HTTP client does not cut a name server short.

    Args:
        question: calls the hub's client.
    """
    outcome: list[Answer[T]] = []

    def run() -> None:
        try:
            outcome.append(Answer(question(), None))
        except Exception as error:  # the client lets through errors of whichever HTTP library it uses
            outcome.append(Answer(None, first_line(error)))

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return outcome[0] if outcome else Answer(None, f"no answer within {SECONDS:g} seconds")


def first_line(error: Any) -> str:
    """An error's type and the beginning of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
