"""Config files by name: those that ship with ilf_jax, and files of the user's by path.

    ilf-jax configs           lists the shipped ones

They are in the installed package, and beside it in a clone.
"""

import argparse
import ast
import difflib
import os
import pathlib
from collections.abc import Sequence

from ilf_jax.errors import InputError, near_path
from ilf_jax.registry import from_here

_LISTED_BY = "`ilf-jax configs` lists those that ship with ilf-jax"
_SWEEPS = "sweeps/"


def folder(name: str) -> pathlib.Path:
    """A folder of the project that ships with the package: configs or launch."""
    package = pathlib.Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def names() -> tuple[str, ...]:
    """What the shipped configurations are called, `quickstart`; sweeps come last, `sweeps/methods`."""
    place = folder("configs")
    found = [path.relative_to(place).with_suffix("").as_posix() for path in place.glob("**/*.py")]
    return tuple(sorted(found, key=lambda name: (name.startswith(_SWEEPS), name)))


def locate(uri: str, flag: str = "--config=") -> str:
    """PATH[:ARGUMENT] of a config file, from what --config gives.

    Args:
        uri: a path, with `~` perhaps; or the name of a shipped configuration, `quickstart` or `configs/quickstart.py`;
            either with an argument, `methods:summarize`. A file that is there comes before a shipped one.
        flag: that gives it, for messages.

    Raises:
        InputError: there is no such file, nor a shipped configuration of that name; says which is called like it.
    """
    name, colon, argument = uri.partition(":")
    path = pathlib.Path(os.path.expanduser(name))
    if name and path.is_file():
        return f"{path}{colon}{argument}"
    shipped = name.removeprefix("configs/").removesuffix(".py") if name.startswith("configs/") else name
    if shipped in names():
        return f"{from_here(folder('configs') / f'{shipped}.py')}{colon}{argument}"
    raise InputError(f"{flag}{uri}: {_why_not(name, path)}")


def _why_not(name: str, path: pathlib.Path) -> str:
    if not name:
        return f"names nothing; give a Python file or a name, --config=quickstart for example; {_LISTED_BY}"
    if path.is_dir():
        return f"is a folder; name a Python file in it, or a shipped configuration; {_LISTED_BY}"
    near = difflib.get_close_matches(path.stem, names(), n=1)
    if path.suffix != ".py" and len(path.parts) == 1:
        hint = f"did you mean {near[0]}? " if near else ""
        return f"no configuration has that name; {hint}{_LISTED_BY}; a file of yours is named by its path, ./{name}.py"
    beside = near_path(path)
    if beside is not None and beside.suffix == ".py":
        return f"there is no such Python file; did you mean {beside}?"
    if near:
        return f"there is no such Python file; did you mean the shipped --config={near[0]}?"
    return f"there is no such Python file (looked from {pathlib.Path.cwd()}); {_LISTED_BY}"


def listing() -> str:
    """What `ilf-jax configs` prints: every shipped configuration with the first line of its docstring."""
    lines = {name: _first_line(folder("configs") / f"{name}.py") for name in names()}
    width = max(map(len, lines))
    runs = [f"  {name:{width}}  {line}" for name, line in lines.items() if not name.startswith(_SWEEPS)]
    sweeps = [f"  {name:{width}}  {line}" for name, line in lines.items() if name.startswith(_SWEEPS)]
    return "\n".join([
        "Run one by ilf-jax run --config=NAME --workdir=DIR:", *runs, "",
        "Run a sweep by ilf-jax sweep --config=NAME --workdir=DIR:", *sweeps, "",
        f"They are in {folder('configs')}: each begins with its commands, what to expect and how long it takes.",
        "To change more than --config.KEY=VALUE can, copy one and name the copy by its path."])


def _first_line(path: pathlib.Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main(arguments: Sequence[str]) -> int:
    """`ilf-jax configs`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    print(listing())
    return 0
