"""What a config key is, and the one table of them: type, default, range, choices and meaning of every dotted name.

Sections are frozen dataclasses whose fields are made by `key` and `section`. Everything that asks about keys (reading,
checking, overriding, suggesting the nearest name) reads the table that `table` makes of such a class.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from ilf_jax.errors import InputError
from ilf_jax.registry import Registry


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


def key(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, above: float | None = None,
    choices: tuple[str, ...] | None = None, registry: Registry | None = None,
) -> Any:
    """A field of a section: its default, what it means, and what is allowed; see `Key`."""
    metadata = {"doc": doc, "low": low, "high": high, "above": above, "choices": choices, "registry": registry}
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type, **defaults: Any) -> Any:
    """A field that is a section of its own, with other defaults where given."""
    return dataclasses.field(default_factory=lambda: cls(**defaults))


@functools.cache
def table(cls: type) -> dict[str, Key]:
    """Every key of a section class and of the sections in it, by dotted name, in the order of the fields."""
    return dict(_keys(cls()))


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
    if name in renamed:
        return InputError(f"config.{name}: was renamed; it is now config.{renamed[name]}")
    all_names = names(cls)
    near = difflib.get_close_matches(name, all_names, n=1, cutoff=0.5)
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
        raise InputError(f"config{'.' if path else ''}{path}: is a section, give its keys (got {tree!r})")
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        where = f"{path}.{name}" if path else str(name)
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
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise InputError(f"{where}: expected a tuple, got {value!r}")
        if entry.element is None:
            return tuple(value)
        of_element = dataclasses.replace(entry, kind=entry.element, element=None, optional=False)
        return tuple(_checked(of_element, v, f"{where}[{i}]") for i, v in enumerate(value))
    if entry.kind is object:
        return value
    if entry.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, entry.kind) or (entry.kind is not bool and isinstance(value, bool)):
        raise InputError(f"{where}: expected {entry.kind.__name__}, got {type(value).__name__} {value!r}")
    if entry.choices is not None and value not in entry.choices:
        near = difflib.get_close_matches(str(value), entry.choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, entry.choices))}{hint}")
    if entry.registry is not None:
        entry.registry.check(value, where)
    if isinstance(value, float) and value != value:
        raise InputError(f"{where}: is not a number")
    too_low = (entry.low is not None and value < entry.low) or (entry.above is not None and value <= entry.above)
    if too_low or (entry.high is not None and value > entry.high):
        limits = [f"at least {entry.low}" if entry.low is not None else "",
                  f"above {entry.above}" if entry.above is not None else "",
                  f"at most {entry.high}" if entry.high is not None else ""]
        raise InputError(f"{where}: {value} is out of range; allowed: {' and '.join(filter(None, limits))}")
    return value
