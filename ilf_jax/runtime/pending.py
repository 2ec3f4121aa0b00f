"""A value that is still being made on a device, or still being written to a disk."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Pending(Generic[T]):
    """Work under way on a device or a disk. `result()` waits for it, once, and returns the same value ever after."""

    def __init__(self, finish: Callable[[], T]) -> None:
        """`finish` waits for the work and returns its result. It is called once; again only after an interrupt."""
        self._finish: Callable[[], T] | None = finish
        self._value: T
        self._error: Exception | None = None

    def result(self) -> T:
        """Waits for the work. Raises what `finish` raised, each time it is called."""
        if self._finish is not None:
            try:
                self._value = self._finish()
            except Exception as e:
                self._error = e
            self._finish = None  # frees what it refers to
        if self._error is not None:
            raise self._error
        return self._value

    def map(self, function: Callable[[T], U]) -> "Pending[U]":
        """`function` of the result, computed when that is asked for."""
        return Pending(lambda: function(self.result()))

    @staticmethod
    def ready(value: T) -> "Pending[T]":
        """A result that is already there."""
        return Pending(lambda: value)
