"""The console script: commands, help, and what it says of mistakes. One process each, as users start it."""

import pathlib
import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = ("run", "report", "generate", "export", "compare", "review", "sweep", "configs", "config")


def call(*arguments):
    return subprocess.run([sys.executable, "-m", "ilf_jax.cli", *arguments], cwd=ROOT, capture_output=True,
                          text=True)


@pytest.mark.fast
def test_help_and_version():
    done = call("--help")
    assert done.returncode == 0 and all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert call("--version").stdout == f"{ilf_jax.__version__}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "usage: ilf-jax COMMAND"), (("rnu",), "error: unknown command 'rnu'; did you mean run?\n"),
    (("--config=a.py",), "commands are run, report, generate, export, compare, review, sweep, configs, config"),
    (("run", "--workdri=x"), "error: unknown flag --workdri; did you mean --workdir?\n"),
    (("run", "--config=configs/quickstart.py", "--config.iterations=-1", "--workdir=x"), "config.iterations: -1"),
    (("run",), "error: --config=NAME or --config=FILE.py is needed"), (("report",), "error: --workdir=DIR is needed"),
    (("generate", "x"), "error: --workdir=DIR is needed"),
    (("export", "--workdir=x"), "error: --out=DIR is needed\n"), (("compare",), "error: --workdir=DIR is needed"),
    (("review",), "error: --workdir=DIR of a run, --data=FILE"),
    (("sweep", "--config=no.py", "--workdir=x"), "no.py: there is no such Python file"),
])
def test_mistakes_end_with_2(arguments, message):
    done = call(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS[:-2])
def test_each_command_shows_its_own_flags(command):
    done = call(command, "--help")
    assert done.returncode == 0 and "--workdir" in done.stdout
    assert ("--topology" in done.stdout) == (command == "run")


def test_only_the_chosen_command_is_imported():
    program = ("import sys\nfrom ilf_jax import cli\nsys.argv = ['ilf-jax', 'report', '--help']\ncli.main()\n"
               "print(sorted({'jax', 'ilf_jax.main', 'ilf_jax.export.export_command'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_run_starts_without_slow_imports_that_few_runs_need():
    program = "import sys, ilf_jax.ilf; print({'scipy.stats', 'scipy.optimize', 'nltk', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_commands_do_what_the_modules_do(tiny_run):
    done = call("report", f"--workdir={tiny_run[1]}")
    assert done.returncode == 0 and done.stdout == f"{tiny_run[1] / 'report.html'}\n"
    assert "error" not in call("compare", f"--workdir={tiny_run[1]}").stderr


def test_help_lists_the_commands_that_exist():
    assert tuple(cli._COMMANDS) == COMMANDS
