"""Python files that give a configuration or a sweep."""

import copy
from collections.abc import Mapping
from typing import Any

import ml_collections

from ilf_jax import config as config_lib
from ilf_jax import registry
from ilf_jax.entry import shipped
from ilf_jax.errors import InputError


def from_file(uri: str, overrides: Mapping[str, Any]) -> config_lib.Config:
    """The checked configuration of `path.py[:arg]`, or of a shipped one by name, as main's flags would have it.

    Args:
        overrides: dotted key, without `config.`, -> value.

    Raises:
        InputError: see `call_in_file` and `read`.
    """
    path, _, arg = shipped.locate(uri, flag="").partition(":")
    config = call_in_file(path, "get_config", *([arg] if arg else []))
    if not isinstance(config, ml_collections.ConfigDict):
        return config_lib.with_overrides(config_lib.read(config), overrides)
    config_lib.read(config)
    config = copy.deepcopy(config)  # a file may return the same object each time
    for key in overrides:
        if key not in config_lib.key_names():
            raise config_lib.unknown_key(key)
    # Set where a flag would be, so that keys which refer to an overridden one follow; `read` checks the types.
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(dict(overrides))
    return config_lib.read(config)


def call_in_file(path: str, function: str, *args: str) -> Any:
    """What a function of a Python file returns.

    Raises:
        InputError: no such file or function, or anything that goes wrong in it: such a file is input.
    """
    module = registry.load_file(path)
    if not hasattr(module, function):
        raise InputError(f"{path}: has no function {function}()")
    return registry.call_user(getattr(module, function), path, *args)
