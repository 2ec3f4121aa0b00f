"""The console script `ilf-jax COMMAND --FLAG=VALUE ...`; `ilf-jax COMMAND --help` shows the flags of a command.

Only the chosen command is imported: each defines a flag `workdir` of its own.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from ilf_jax.version import __version__

# Command -> the module that has its main function and flags, and what it does.
_COMMANDS = {
    "run": ("ilf_jax.main", "run ILF, resume a run, or check one (--dry_run)"),
    "report": ("ilf_jax.reporting.rebuild", "rebuild the report of a run"),
    "generate": ("ilf_jax.policy.generate", "write outputs of a trained policy for documents of yours"),
    "export": ("ilf_jax.export.export_command", "write a policy for transformers, vLLM, PEFT, llama.cpp or Ollama"),
    "compare": ("ilf_jax.comparison.command", "compare systems by people or by a judge"),
    "review": ("ilf_jax.review.serving", "write feedback and compare systems in a browser"),
    "sweep": ("ilf_jax.sweeps.command_line", "run many configurations and compare their results"),
    "configs": ("ilf_jax.entry.shipped", "list the configurations that ship with ilf-jax"),
    "config": ("ilf_jax.entry.config_help", "show the keys of the configuration: meaning, type, default, range"),
}
_WITH_ARGPARSE = ("sweep", "configs", "config")  # the others have absl's flags


def usage() -> str:
    """What `ilf-jax --help` prints."""
    commands = "\n".join(f"  {name:8} {summary}" for name, (_, summary) in _COMMANDS.items())
    return (f"usage: ilf-jax COMMAND --FLAG=VALUE ...\n\n{commands}\n\n"
            "ilf-jax COMMAND --help shows the flags of a command.")


def main() -> int:
    """Runs the command of sys.argv. Exit code 2 if there is none or an unknown one, else the command's."""
    arguments = sys.argv[1:]
    if not arguments:
        print(usage(), file=sys.stderr)
        return 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in _COMMANDS:
        near = [] if name.startswith("-") else difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(_COMMANDS)}"
        print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    # Where absl, ml_collections and argparse look for flags and the program's name.
    sys.argv = [f"ilf-jax {name}", *rest]
    try:
        module = importlib.import_module(_COMMANDS[name][0])
    except KeyboardInterrupt:
        print("SIGINT: stopped before anything was done", file=sys.stderr)
        return 130
    if name in _WITH_ARGPARSE:
        return _run_with_argparse(module, rest)
    from ilf_jax.entry import absl_program

    return absl_program.run(module, sys.argv)


def _run_with_argparse(module: Any, arguments: Sequence[str]) -> int:
    try:
        code = module.main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
