"""What a config key is, and the one table of them: type, default, range, choices and meaning of every dotted name.

Sections are frozen dataclasses whose fields are made by `key` and `section`. Everything that asks about keys (reading,
checking, overriding, suggesting the nearest name) reads the table that `table` makes of such a class.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from ilf_jax.errors import InputError, shown
from ilf_jax.registry import Registry

_LONGEST_NAME = 60
_LARGEST_INT = 2**31 - 1  # sizes and counts are int32 on the devices


@dataclasses.dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        kind: type of its value; tuples are checked element by element where `element` is given.
        optional: whether it may be unset (None).
        low, high: inclusive bounds; above: exclusive lower bound.
        choices: allowed values; of a tuple, of its elements.
        registry: allowed are its names, and places of a user's own code.
    """

    kind: Any
    optional: bool
    element: type | None
    default: Any
    doc: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...] | None
    registry: Registry | None

    @property
    def type_name(self) -> str:
        """The type of its value, for people: `int`, `tuple of str`, `float or None`."""
        name = "any" if self.kind is object else self.kind.__name__
        of_elements = f" of {self.element.__name__}" if self.element is not None else ""
        return f"{name}{of_elements}{' or None' if self.optional else ''}"

    @property
    def allowed(self) -> str:
        """Which values of that type are allowed; "" where all are."""
        if self.registry is not None:
            return f"{', '.join(map(repr, self.registry.names()))}, file:PATH:NAME or module:PACKAGE.MODULE:NAME"
        return ", ".join(map(repr, self.choices)) if self.choices is not None else _limits(self, self.high)


def key(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, above: float | None = None,
    choices: tuple[str, ...] | None = None, registry: Registry | None = None,
) -> Any:
    """A field of a section: its default, what it means, and what is allowed; see `Key`."""
    metadata = {"doc": doc, "low": low, "high": high, "above": above, "choices": choices, "registry": registry}
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type, doc: str, **defaults: Any) -> Any:
    """A field that is a section of its own: what it is about, and other defaults where given."""
    return dataclasses.field(default_factory=lambda: cls(**defaults), metadata={"doc": doc})


@functools.cache
def table(cls: type) -> dict[str, Key]:
    """Every key of a section class and of the sections in it, by dotted name, in the order of the fields."""
    return dict(_keys(cls()))


@functools.cache
def section_docs(cls: type) -> dict[str, str]:
    """What each section in a section class is about, by dotted name, in the order of the fields."""
    return dict(_sections(cls()))


def _sections(instance: Any, prefix: str = "") -> typing.Iterator[tuple[str, str]]:
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            yield prefix + field.name, field.metadata["doc"]
            yield from _sections(value, f"{prefix}{field.name}.")


def _keys(instance: Any, prefix: str = "") -> typing.Iterator[tuple[str, Key]]:
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            yield from _keys(value, f"{prefix}{field.name}.")
            continue
        hint = hints[field.name]
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        kind = next(arg for arg in typing.get_args(hint) if arg is not type(None)) if optional else hint
        arguments = typing.get_args(kind)
        yield prefix + field.name, Key(
            kind=object if kind is Any else typing.get_origin(kind) or kind, optional=optional,
            element=arguments[0] if arguments else None,
            default=value, **field.metadata)


@functools.cache
def names(cls: type) -> tuple[str, ...]:
    """Dotted names of all keys, and of the sections that hold them."""
    parts = [name.split(".") for name in table(cls)]
    return tuple(dict.fromkeys(".".join(path[:n]) for path in parts for n in range(1, len(path) + 1)))


def unknown_key(cls: type, path: str, renamed: Mapping[str, str]) -> InputError:
    """The error for a key that does not exist: names its new name, or the nearest key that there is."""
    name = path.removeprefix("config.")
    if not name.isprintable():
        name = ascii(name)[1:-1]
    if name in renamed:
        return InputError(f"config.{name}: was renamed; it is now config.{renamed[name]}")
    all_names = names(cls)
    near = difflib.get_close_matches(name, all_names, n=1)
    same_name = [k for k in all_names if k.rpartition(".")[2] == name.rpartition(".")[2]]
    if not near or "." not in name:  # perhaps only the section was left out, and several have such a key
        near = same_name[:3] or near
    hint = f"; did you mean {' or '.join(f'config.{k}' for k in near)}?" if near else ""
    return InputError(f"config.{name}: there is no such key{hint}")


def to_config_dict(instance: Any) -> ml_collections.ConfigDict:
    """A section with its values as a ConfigDict; unset keys are placeholders of their type."""
    out = ml_collections.ConfigDict()
    cls: Any = type(instance)
    keys = {name: entry for name, entry in table(cls).items() if "." not in name}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif value is None:
            value = config_dict.placeholder(keys[field.name].kind)
        out[field.name] = value
    return out


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """An instance of a section class with these values, dotted name -> value; the others keep their defaults."""
    return _with_values(cls(), values, "")


def _with_values(instance: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changes = {}
    for field in dataclasses.fields(instance):
        value, name = getattr(instance, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            changes[field.name] = _with_values(value, values, f"{name}.")
        elif name in values:
            changes[field.name] = values[name]
    return dataclasses.replace(instance, **changes)


def flatten(cls: type, tree: Any, renamed: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """Nested or dotted keys as dotted name -> value.

    Raises:
        InputError: a key that does not exist, or a value where a section belongs.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"config{'.' if path else ''}{path}: is a section, give its keys (got {shown(tree)})")
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if not isinstance(name, str):
            raise InputError(f"config{'.' if path else ''}{path}: keys are names, not {shown(name)}")
        where = f"{path}.{name}" if path else name
        if where in table(cls):
            flat[where] = value
        elif where in names(cls):
            flat |= flatten(cls, value, renamed, where)
        else:
            raise unknown_key(cls, where, renamed)
    return flat


def check(cls: type, name: str, value: Any) -> Any:
    """The value of a key as the run uses it (lists become tuples, whole numbers floats where those belong).

    Raises:
        InputError: wrong type, out of range, or not one of the choices.
    """
    return _checked(table(cls)[name], value, f"config.{name}")


def _checked(entry: Key, value: Any, where: str) -> Any:
    if value is None:
        if entry.optional:
            return None
        raise InputError(f"{where}: must be set")
    if entry.kind is tuple:
        return _checked_tuple(entry, value, where)
    if entry.kind is object:
        try:
            return _plain(value, where)
        except RecursionError as e:
            raise InputError(f"{where}: {shown(value)} is nested too deeply") from e
    if entry.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value, where)
    if not isinstance(value, entry.kind) or (entry.kind is not bool and isinstance(value, bool)):
        raise InputError(f"{where}: expected {entry.kind.__name__}, got {type(value).__name__} {shown(value)}")
    if isinstance(value, str):
        check_text(value, where)
    if entry.choices is not None and value not in entry.choices:
        near = difflib.get_close_matches(str(value), entry.choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: {shown(value)} is not one of {', '.join(map(repr, entry.choices))}{hint}")
    if entry.registry is not None:
        entry.registry.check(value, where)
        return entry.registry.canonical(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} is not a finite number")
    _check_range(entry, value, where)
    return value


def _plain(value: Any, where: str) -> Any:
    """A value of no particular type, made of what JSON has; lists become tuples."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {_text(name, where): _plain(v, f"{where}.{shown_name(name)}") for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) <= _LARGEST_INT:
        return value
    raise InputError(f"{where}: {shown(value)} given; allowed are texts, finite numbers (whole ones up to 2^31 - 1), "
                     "booleans, null, and lists and mappings of these")


def shown_name(name: Any) -> str:
    """A key that a user chose, as a part of a dotted name in a message: on one line, and short."""
    return name if isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_NAME else shown(name)


def _checked_tuple(entry: Key, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (tuple, list)):
        raise InputError(f"{where}: expected a tuple, got {shown(value)}")
    if entry.element is None:
        return tuple(_text_or_texts(v, f"{where}[{i}]") for i, v in enumerate(value))
    of_element = dataclasses.replace(entry, kind=entry.element, element=None, optional=False)
    return tuple(_checked(of_element, v, f"{where}[{i}]") for i, v in enumerate(value))


def _text_or_texts(value: Any, where: str) -> str | tuple[str, ...]:
    """What stands in a tuple of no particular type: text, or a tuple of it."""
    if isinstance(value, (tuple, list)):
        return tuple(_text(v, f"{where}[{i}]") for i, v in enumerate(value))
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text, got {type(value).__name__} {shown(value)}")
    check_text(value, where)
    return value


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as e:
        raise InputError(f"{where}: {shown(value)} is too large for a float") from e


def _check_range(entry: Key, value: Any, where: str) -> None:
    high = _LARGEST_INT if entry.high is None and entry.kind is int else entry.high
    too_low = (entry.low is not None and value < entry.low) or (entry.above is not None and value <= entry.above)
    if too_low or (high is not None and value > high):
        raise InputError(f"{where}: {shown(value)} is out of range; allowed: {_limits(entry, high)}")


def _limits(entry: Key, high: float | None) -> str:
    limits = [f"at least {entry.low}" if entry.low is not None else "",
              f"above {entry.above}" if entry.above is not None else "",
              f"at most {high}" if high is not None else ""]
    return " and ".join(filter(None, limits))


def check_text(text: str, where: str) -> None:
    """Raises InputError if a text cannot be written as UTF-8, or has a character that no path may have."""
    bad = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        kind = "a NUL character" if bad == "\0" else "half a surrogate pair, which UTF-8 cannot encode"
        raise InputError(f"{where}: {shown(text)} has {kind}")
