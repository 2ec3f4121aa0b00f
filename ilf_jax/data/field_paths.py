"""Values inside rows: where a dotted path leads, and what of it is text."""

import datetime
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax.errors import InputError

MISSING = object()
"""What `look_up` returns where a path leads nowhere."""


def look_up(row: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path such as `feedback.errors.0.explanation` or `chosen.-1.content`, or MISSING.

    A part of the path is a key of an object, or the index of a list, counted from its end if negative. Inside a group
    that is null every path is null.
    """
    if path in row:  # a name may itself contain dots
        return row[path]
    value: Any = row
    for part in path.split("."):
        if value is None:
            return None
        if isinstance(value, Mapping):
            if part not in value:
                return MISSING
            value = value[part]
        elif _is_list(value) and part.removeprefix("-").isdecimal():
            if not -len(value) <= int(part) < len(value):
                return MISSING
            value = value[int(part)]
        else:
            return MISSING
    return value


def _is_list(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, str | bytes)) or bool(getattr(value, "shape", ()))


def is_null(value: Any) -> bool:
    """Whether a value says that there is none: null, or a number that is not finite, as pandas writes NaN for it."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def to_text(where: str, value: Any, join: str | None = None) -> str:
    """A value as text: "" for null and for numbers that are not finite; dates and times as ISO 8601 writes them.

    Args:
        where: file, line and field, for messages.
        value: of JSON, of a tfds data set, or of a Parquet file.
        join: stands between the elements of a list; None: a list is refused.

    Raises:
        InputError: it is neither text, number nor date, or text that UTF-8 cannot hold.
    """
    if hasattr(value, "dtype") and not getattr(value, "shape", ()):
        value = value.item()  # numpy scalars, from tfds
    if is_null(value):
        return ""
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date, too
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as e:
            raise InputError(f"{where}: not UTF-8: {e}") from e
    if join is not None and _is_list(value):
        texts = [to_text(f"{where}, element {i}", element) for i, element in enumerate(value)]
        return join.join(filter(None, texts))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        name = type(value).__name__
        kind = {"dict": "an object", "bool": "a boolean"}.get(name, "a list" if _is_list(value) else f"a {name}")
        hint = "; name an element by its index (field.0), or set `join` to put them together" if _is_list(value) else ""
        raise InputError(f"{where}: the value is {kind}; allowed are text, numbers and null{hint}")
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InputError(f"{where}: the text has half a surrogate pair, which UTF-8 cannot encode") from e
    return text
