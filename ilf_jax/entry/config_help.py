"""What the configuration's keys are: meaning, type, default, allowed values.

    ilf-jax config              the sections, and the keys that are in none
    ilf-jax config SECTION      every key of a section, data or finetune for example
    ilf-jax config KEY          one key, finetune.learning_rate for example
    ilf-jax config all          every key
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from ilf_jax import config as config_lib
from ilf_jax.config_keys import Key
from ilf_jax.errors import InputError

_WIDTH = 100  # characters
_HOW = "Set a key by --config.KEY=VALUE or in a config file; --config.KEY=None unsets one that may be None."


def describe(name: str = "") -> str:
    """What `ilf-jax config NAME` prints: a key, a section, or, where nothing is given, an overview.

    Raises:
        InputError: there is no such key or section; names the nearest one.
    """
    name = name.removeprefix("config.")
    keys, sections = config_lib.key_table(), config_lib.sections()
    if name in keys:
        return _key(name, keys[name], in_full=True)
    if name == "all":
        return "\n".join(_key(key, entry) for key, entry in keys.items())
    if name in sections:
        inside = [_key(key, entry) for key, entry in keys.items() if key.startswith(f"{name}.")]
        return "\n".join([f"config.{name}: {sections[name]}", "", *inside])
    if name:
        raise config_lib.unknown_key(name)
    own = [_key(key, entry) for key, entry in keys.items() if "." not in key]
    return "\n".join([_HOW, "", *own, "", sections_table(), "",
                      "ilf-jax config SECTION shows a section's keys, ilf-jax config KEY one key."])


def sections_table() -> str:
    """Every section with what it is about, one a line."""
    sections = config_lib.sections()
    width = max(map(len, sections))
    return "\n".join(["Sections of the configuration:",
                      *(f"  {name:{width}}  {doc}" for name, doc in sections.items())])


def _key(name: str, entry: Key, in_full: bool = False) -> str:
    paragraphs = [entry.doc, "; ".join(filter(None, [entry.type_name, entry.allowed]))]
    if in_full and entry.registry is not None:
        paragraphs += [f"{choice!r}: {doc}" for choice, (_, doc) in entry.registry.builtins.items()]
    wrapped = (textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
               for text in paragraphs)
    return "\n".join([f"config.{name} = {entry.default!r}", *wrapped])


def main(arguments: Sequence[str]) -> int:
    """`ilf-jax config [KEY]`. Exit code 2 if there is no such key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", nargs="?", default="", help="a key, a section, or all; nothing: an overview")
    try:
        print(describe(parser.parse_args(arguments).key))
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0
