"""How a command with absl's flags starts: its help, what is said of a wrong flag, and its main function.

Shared by the console script and by `python -m ilf_jax.COMMAND`.
"""

import difflib
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import app, flags, logging

from ilf_jax.errors import InputError
from ilf_jax.runtime import last_defence

_HELP = ("-h", "-help", "--help")


def run(module: ModuleType, argv: Sequence[str]) -> int:
    """Runs a command and exits with its code, 2 where a flag is wrong; prints its help and returns 0 for --help.

    Args:
        module: its docstring and flags make the help; `main(arguments)` returns the exit code. One that has
            `parse_or_exit` or `help_text` answers wrong flags, or --help, itself.
        argv: the program's name, then the arguments.
    """
    if any(argument in _HELP for argument in argv[1:]):
        print(_help(module))
        return 0

    def main(arguments: Sequence[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax logs much; our own lines pass nevertheless
        return module.main(arguments)

    with last_defence.at_once_when_stopped():
        app.run(main, argv=list(argv), flags_parser=getattr(module, "parse_or_exit", _parse_or_exit))
    raise AssertionError("app.run returned")


def _parse_or_exit(argv: Sequence[str]) -> list[str]:
    try:
        return _parse(argv)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's flag parser, with errors in one line that name the nearest flag. Raises InputError."""
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as e:
        by_module = flags.FLAGS.flags_by_module_dict()
        ours = [flag.name for module, of_module in by_module.items() if module.startswith("ilf_jax")
                for flag in of_module]
        near = difflib.get_close_matches(e.flagname, ours, n=1)
        hint = f"did you mean --{near[0]}?" if near else "--help lists the flags"
        raise InputError(f"unknown flag --{e.flagname}; {hint}") from e
    except flags.Error as e:
        raise InputError(" ".join(str(e).removeprefix("flag ").split())) from e


def _help(module: ModuleType) -> str:
    """A module's docstring and flags; absl would show the flags of the script that imports it."""
    if hasattr(module, "help_text"):
        return module.help_text()
    return f"{(module.__doc__ or '').strip()}\n{flags.FLAGS.module_help(module.__name__)}"
