"""Runs ILF, or resumes a run that stopped.

ilf-jax run --config=NAME[:ARGUMENT] --workdir=DIR [--config.KEY=VALUE ...]
            [--dry_run [--topology=v5e:4x4]] [--allow_change=SECTION,...]

NAME is a configuration that ships with ilf-jax, quickstart for example, or the path of a Python file of yours.
--config.KEY=VALUE overrides a key of it; None unsets one that is optional. A run that stopped goes on when the same
command is given again. python -m ilf_jax.main is the same.
"""

import itertools
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from ilf_jax import config as config_lib
from ilf_jax.entry import config_help, early_checks, overrides, shipped
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
_HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parser, with errors that name the nearest key. Raises InputError."""
    for arg in argv[1:]:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("--config.") and name.removeprefix("config.") not in config_lib.key_names():
            raise config_lib.unknown_key(name)
    argv, unset = overrides.split_unset(_located(argv))
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            dict(_CONFIG.value)  # ml_collections reports a file that it cannot open only when it is asked for a key
            overrides.unset(_CONFIG.value, unset)
        return rest
    except flags.UnrecognizedFlagError as e:
        raise InputError(f"unknown flag --{e.flagname}{overrides.meant(e.flagname, _OWN_FLAGS)}") from e
    except Exception as e:
        if isinstance(e, flags.IllegalFlagValueError) and "Traceback" not in str(e):
            raise InputError(overrides.wrong_value(e)) from e
        raise InputError(_config_error(e, argv)) from e  # whatever goes wrong in a config file is an error in the input


def _located(argv: Sequence[str]) -> list[str]:
    """The arguments with the path of the config file where its name was. Raises InputError if there is no such file."""
    located = []
    for before, arg in itertools.pairwise(["", *argv]):
        if before in ("--config", "-config"):
            located[-1] = f"--config={shipped.locate(arg)}"
        elif arg.startswith(("--config=", "-config=")):
            located.append(f"--config={shipped.locate(arg.partition('=')[2])}")
        else:
            located.append(arg)
    return located


def _config_error(error: Exception, argv: Sequence[str]) -> str:
    """What went wrong in a config file, which is a program."""
    if isinstance(error, AttributeError) and "has no attribute 'get_config'" in str(error):
        uri = next(arg for arg in reversed(argv) if arg.startswith("--config="))
        text = pathlib.Path(uri.removeprefix("--config=").partition(":")[0]).read_text(errors="replace")
        is_sweep = "; it is a sweep: ilf-jax sweep runs it" if "def get_sweep(" in text else ""
        return f"{uri} has no get_config(){is_sweep}"
    if isinstance(error, InputError):
        return f"--config: {error}"
    if isinstance(error, flags.IllegalFlagValueError):  # absl's, around an error in the file
        return f"--config: {_without_traceback(str(error))}"
    return f"--config: {type(error).__name__}: {error}"


def _without_traceback(message: str) -> str:
    """The last place outside of libraries, and the error: ml_collections puts whole tracebacks into messages."""
    if "Traceback (most recent call last)" not in message:
        return message
    lines = [line.strip() for line in message.strip().splitlines()]
    places = [line for line in lines if line.startswith('File "') and "site-packages" not in line]
    return ": ".join([*places[-1:], lines[-1]])


def help_text() -> str:
    """What --help prints: how to call it, its flags, and the sections of the configuration."""
    own_flags = flags.FLAGS.module_help(flags.FLAGS.find_module_defining_flag("workdir"))
    return "\n".join([
        (__doc__ or "").strip(), own_flags, "", config_help.sections_table(), "",
        "ilf-jax config SECTION shows a section's keys, ilf-jax config KEY one key; ilf-jax configs lists the",
        "configurations that ship with ilf-jax."])


def parse_or_exit(argv: Sequence[str]) -> list[str]:
    """`parse_flags`; on an error, prints it and exits with code 2; of --help, with code 0."""
    if any(arg in _HELP for arg in argv[1:]):
        print(help_text())
        sys.exit(0)
    try:
        return parse_flags(argv)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


@last_defence.guarded("starting", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 0 if the run is complete, 2 on bad input, 3 if a dry run finds that it does not fit.

    4 where the run waits for people (config.feedback.source='human'); 70 where something happens that nobody foresaw;
    75 where trying again later helps, a bucket does not answer say; 130 after SIGINT, 143 after SIGTERM.
    """
    preemption.install_interrupt()
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # orbax logs much; our own lines pass nevertheless
    if len(argv) > 1:
        meant = f"; did you mean --config={argv[1]}?" if argv[1].partition(":")[0] in shipped.names() else ""
        raise InputError(f"unexpected argument {argv[1]!r}; flags start with --{meant}")
    if _CONFIG.value is None:
        raise InputError("--config=NAME or --config=FILE.py is needed, --config=quickstart for example; `ilf-jax "
                         "configs` lists the names")
    config = config_lib.read(_CONFIG.value)
    if _DRY_RUN.value:
        early_checks.check(config)
        from ilf_jax.dry_run.dry_run import dry_run  # imports jax, so after the flags are checked

        return dry_run(config, _TOPOLOGY.value)
    if _TOPOLOGY.value:
        raise InputError("--topology needs --dry_run: a run cannot use TPUs that are not here")
    if not _WORKDIR.value:
        raise InputError("--workdir=DIR is needed: where the run keeps its files")
    early_checks.check(config)
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
