"""Values that other people's configs hold, and errors that name the file and the key."""

from collections.abc import Mapping
from typing import Any

from ilf_jax.errors import InputError

_MISSING = object()


class Keys:
    """Reads the keys of a config. Errors name the file and the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def __call__(self, key: str, default: Any = _MISSING) -> Any:
        value = self.values.get(key)
        if value is None and default is _MISSING:
            raise InputError(f"{self.where}: the config has no {key!r}, which this family needs")
        return default if value is None else value

    def refuse(self, key: str, value: Any, allowed: str) -> InputError:
        return InputError(f"{self.where}: {key} = {value!r} is not supported; allowed: {allowed}")
