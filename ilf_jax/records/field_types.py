"""Whether the fields of a dataclass hold what their annotations say: texts, finite numbers, lists and objects of them.

Quick, for a hundred thousand records are read before a stage begins.
"""

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ilf_jax.errors import shown

_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", types.NoneType: "null"}


def problem(cls: type, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the first field whose value is not of its type, if any: numbers are finite, texts UTF-8."""
    for name, is_valid in _checks(cls):
        if not is_valid(row[name]):
            return _problem_of_value(name, row[name], kinds(cls)[name])
    return None



@functools.cache
def kinds(cls: type) -> dict[str, Any]:
    """The type of each field."""
    return typing.get_type_hints(cls)


@functools.cache
def _checks(cls: type) -> tuple[tuple[str, Callable[[Any], bool]], ...]:
    """Of each field its name, and what tells whether a value is of its kind."""
    return tuple((name, _is_valid(kind)) for name, kind in kinds(cls).items())


@functools.cache
def _is_valid(kind: Any) -> Callable[[Any], bool]:
    """What tells whether a value is of a kind."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is list:
        of_item = _is_valid(inner[0])
        return lambda value: isinstance(value, list) and all(map(of_item, value))
    if outer is dict:
        of_value = _is_valid(inner[1])
        return lambda value: isinstance(value, dict) and all(map(of_value, value.values()))
    if outer is types.UnionType:
        return lambda value: any(_is_a(value, one) for one in inner)
    if kind is float:  # nearly all values
        return lambda value: math.isfinite(value) if type(value) is float else _is_a(value, float)
    if kind is str:
        return lambda value: isinstance(value, str) and (value.isascii() or _is_utf8(value))
    return lambda value: _is_a(value, kind)


def _problem_of_value(name: str, value: Any, kind: Any) -> str | None:
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is list:
        if not isinstance(value, list):
            return f"{name} is not a list"
        return next(filter(None, (_problem_of_value(f"{name}[{i}]", v, inner[0]) for i, v in enumerate(value))), None)
    if outer is dict:
        if not isinstance(value, dict):
            return f"{name} is not an object"
        return next(filter(None, (_problem_of_value(f"{name}[{k!r}]", v, inner[1]) for k, v in value.items())), None)
    kinds = inner if outer is types.UnionType else (kind,)
    if any(_is_a(value, one) for one in kinds):
        return None
    return f"{name} is {shown(value)}, not {' or '.join(_NAMES[one] for one in kinds)}"


def _is_a(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str) and (value.isascii() or _is_utf8(value))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, kind)


def _is_utf8(text: str) -> bool:
    """Whether it can be written: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
