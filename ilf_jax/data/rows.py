"""One row of a data source, whatever its format."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a source, unchanged.

    Attributes:
        where: file and line, or file and row, for messages.
        number: line of a JSON Lines file; row of any other source, from 1.
        value: the parsed row, or the InputError raised when parsing it.
    """

    where: str
    number: int
    value: Any
