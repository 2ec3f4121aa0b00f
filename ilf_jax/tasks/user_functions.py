"""Calling plain functions of the user's over text: one document at a time, or, with plural parameter names, a batch."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ilf_jax import registry
from ilf_jax.errors import InputError


def check_parameters(function: Any, where: str, single: Sequence[str], batched: Sequence[str]) -> None:
    """Raises InputError naming `where` unless `function` can be called in one of two forms.

    Args:
        single: parameter names of the form that takes one document.
        batched: those of the form that takes lists; recognised by the first one.
    """
    if not callable(function):
        raise InputError(f"{where}: is not a function")
    wanted = batched if is_batched(function) else single
    try:
        inspect.signature(function).bind(*wanted)
    except TypeError as e:
        raise InputError(f"{where}: is called as NAME({', '.join(single)}), or NAME({', '.join(batched)}) with lists: "
                         f"{e}") from e
    except ValueError:  # a built-in without a signature
        return


def is_batched(function: Callable[..., Any]) -> bool:
    """Whether a function takes lists: its first parameter is called `documents`."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return parameters[:1] == ["documents"]


def call(function: Callable[..., Any], ids: Sequence[str], *columns: Sequence[Any]) -> list[Any]:
    """What the function returns for each row of `columns`.

    Args:
        ids: of the documents, for messages.
        columns: one sequence for each argument, as long as `ids`.

    Raises:
        InputError: it raises, or a batched function does not return one value per document.
    """
    if not is_batched(function):
        rows = zip(ids, *columns, strict=True)
        return [registry.call_user(function, f"document {i!r}", *row) for i, *row in rows]
    about = f"the documents {', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''}"
    values = registry.call_user(function, about, *(list(column) for column in columns))
    if not hasattr(values, "__len__") or len(values) != len(ids):
        size = len(values) if hasattr(values, "__len__") else type(values).__name__
        raise InputError(f"{getattr(function, '__name__', 'function')}(): returned {size} values for {len(ids)} "
                         "documents; a batched function returns one each")
    return list(values)
