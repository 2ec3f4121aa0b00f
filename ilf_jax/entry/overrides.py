"""Flags --config.KEY=VALUE: what `None` means, and what is said of a value or a name that is wrong."""

import difflib
from collections.abc import Collection, Sequence

import ml_collections

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError, shown

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def split_unset(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--config.KEY=None`, and the optional keys that these unset.

    The last flag of a key decides, as it does for other values.

    Raises:
        InputError: a key that must be set, and is no text, is given None.
    """
    last = {name: value for name, value in map(_override, argv[1:]) if name}
    keys = config_lib.key_table()
    for name, value in last.items():
        if value == "None" and name in keys and not keys[name].optional and keys[name].kind is not str:
            raise InputError(f"config.{name}: None given, but it must be set: {_what(name)}")
    unset = [name for name, value in last.items() if value == "None" and name in keys and keys[name].optional]
    kept = [arg for arg in argv[1:] if (name := _override(arg)[0]) not in unset
            and not (name in keys and keys[name].optional and _override(arg)[1] == "None")]
    return [*argv[:1], *kept], unset


def _override(arg: str) -> tuple[str, str]:
    """Key and value of a flag `--config.KEY=VALUE`; ("", "") of any other."""
    name, equals, value = arg.partition("=")
    bare = name.lstrip("-").removeprefix("config.")
    return (bare, value) if equals and name in (f"--config.{bare}", f"-config.{bare}") else ("", "")


def unset(config: ml_collections.ConfigDict, names: Collection[str]) -> None:
    """Sets the keys to None, whatever their type."""
    with config.ignore_type():
        config.update_from_flattened_dict(dict.fromkeys(names))


def wrong_value(error: Exception) -> str:
    """What absl says of a flag's value; of a key of the configuration, what that takes."""
    text = " ".join(str(error).removeprefix("flag ").split())
    flag, _, rest = text.partition("=")
    name = flag.removeprefix("--config.")
    if name not in config_lib.key_table() or not flag.startswith("--config."):
        return text
    return f"config.{name}: {shown(rest.partition(': ')[0])} is not {_what(name)}"


def _what(name: str) -> str:
    entry = config_lib.key_table()[name]
    kind = _KINDS.get(entry.kind.__name__, f"a value of type {entry.type_name}")
    return f"{kind}{f', {entry.allowed}' if entry.allowed else ''} ({entry.doc})"


def meant(flag: str, own_flags: Collection[str]) -> str:
    """Which flag is meant by an unknown one, as the end of a message; `--iterations` is a key without its prefix."""
    same_key = [key for key in config_lib.key_table() if flag in (key, key.rpartition(".")[2])]
    if same_key:
        return f"; did you mean {' or '.join(f'--config.{key}' for key in same_key[:3])}?"
    near = difflib.get_close_matches(flag, own_flags, n=1)
    return f"; did you mean --{near[0]}?" if near else "; ilf-jax run --help lists the flags"
