"""Runs ILF, or resumes a run that stopped.

ilf-jax run --config=configs/NAME.py[:arg=value,...] --workdir=DIR [--config.a.b=VALUE ...]
            [--dry_run [--topology=v5e:4x4]] [--allow_change=SECTION,...]

python -m ilf_jax.main is the same.
"""

import difflib
import itertools
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed, last_defence, preemption, storage

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps its files; an interrupted run resumes from there.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check everything, show one example with its loss mask, and stop.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "With --dry_run: compile for these TPUs, v5e:4x4 for example.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, if there are several.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
_HEARTBEAT = flags.DEFINE_float("heartbeat_timeout", distributed.HEARTBEAT_TIMEOUT, "Seconds without a sign of life "
                                "after which one of several processes counts as lost, and the others exit with code "
                                "75. So does one that has not joined in as much time.", 1, 86400)
_ALLOW_CHANGE = flags.DEFINE_list("allow_change", [], "Sections of the config, or keys, in which a resumed run may "
                                  "differ from its folder, as long as no stage that reads them has begun.")
_PROFILE = flags.DEFINE_integer("profile", 0, "Number of training steps to record a profile of.", lower_bound=0)
_OWN_FLAGS = ("config", "workdir", "dry_run", "topology", "coordinator_address", "num_processes", "process_id",
              "profile", "allow_change", "heartbeat_timeout")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parser, with errors that name the nearest key. Raises InputError."""
    for arg in argv[1:]:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("--config.") and name.removeprefix("config.") not in config_lib.key_names():
            raise config_lib.unknown_key(name)
    # The shell leaves ~ in --config=~/my.py as it is.
    argv = [f"--config={os.path.expanduser(arg.removeprefix('--config='))}" if arg.startswith("--config=~") else arg
            for arg in argv]
    _check_config_file(argv)
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            dict(_CONFIG.value)  # ml_collections reports a file that it cannot open only when it is asked for a key
        return rest
    except flags.UnrecognizedFlagError as e:
        near = difflib.get_close_matches(e.flagname, _OWN_FLAGS, n=1)
        raise InputError(f"unknown flag --{e.flagname}{f'; did you mean --{near[0]}?' if near else ''}") from e
    except Exception as e:
        if isinstance(e, flags.IllegalFlagValueError) and "Traceback" not in str(e):
            raise InputError(_wrong_value(e)) from e
        # A config file is a program: whatever goes wrong in it is an error in the input.
        raise InputError(f"--config: {type(e).__name__}: {_without_traceback(str(e))}") from e


def _check_config_file(argv: Sequence[str]) -> None:
    """Raises InputError if the last --config names no file: ml_collections takes four lines to say so."""
    uri = None
    for arg, following in itertools.pairwise([*argv[1:], ""]):
        if arg in ("--config", "-config"):
            uri = following
        elif arg.startswith(("--config=", "-config=")):
            uri = arg.partition("=")[2]
    if uri is None:
        return
    path = pathlib.Path(uri.partition(":")[0])
    if not uri or path.is_dir():
        raise InputError(f"--config={uri}: name a Python file, configs/quickstart.py for example")
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f" (looked from {pathlib.Path.cwd()})"
        raise InputError(f"--config={uri}: there is no such Python file{hint}")


def _wrong_value(error: Exception) -> str:
    """What absl says of a flag's value, and of a key of the configuration what it takes."""
    text = " ".join(str(error).removeprefix("flag ").split())
    name = text.removeprefix("--config.").partition("=")[0]
    kind = config_lib.kind(name) if text.startswith("--config.") else None
    return f"{text} (config.{name} takes {kind})" if kind else text


def _without_traceback(message: str) -> str:
    """The last place outside of libraries, and the error: ml_collections puts whole tracebacks into messages."""
    if "Traceback (most recent call last)" not in message:
        return message
    lines = [line.strip() for line in message.strip().splitlines()]
    places = [line for line in lines if line.startswith('File "') and "site-packages" not in line]
    return ": ".join([*places[-1:], lines[-1]])


def parse_or_exit(argv: Sequence[str]) -> list[str]:
    """`parse_flags`; on an error, prints it and exits with code 2."""
    try:
        return parse_flags(argv)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


@last_defence.guarded("starting", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 0 if the run is complete, 2 on bad input, 3 if a dry run finds that it does not fit.

    70 where something happens that nobody foresaw; 75 where trying again later helps, a bucket does not answer say;
    130 after SIGINT, 143 after SIGTERM.
    """
    preemption.install_interrupt()
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # orbax logs much; our own lines pass nevertheless
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; flags start with --")
    if _CONFIG.value is None:
        raise InputError("--config=configs/NAME.py is needed")
    config = config_lib.read(_CONFIG.value)
    if _DRY_RUN.value:
        from ilf_jax.dry_run.dry_run import dry_run  # imports jax, so after the flags are checked

        return dry_run(config, _TOPOLOGY.value)
    if _TOPOLOGY.value:
        raise InputError("--topology needs --dry_run: a run cannot use TPUs that are not here")
    if not _WORKDIR.value:
        raise InputError("--workdir=DIR is needed: where the run keeps its files")
    storage.check(storage.path(_WORKDIR.value))
    distributed.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value, _HEARTBEAT.value)
    preemption.install()
    from ilf_jax import ilf
    from ilf_jax.runtime import jax_settings

    jax_settings.freeze_imports()
    with distributed.exit_with_the_others():
        ilf.run(config, _WORKDIR.value, _PROFILE.value, _ALLOW_CHANGE.value)
    return 0


if __name__ == "__main__":
    with last_defence.at_once_when_stopped():
        app.run(main, flags_parser=parse_or_exit)
