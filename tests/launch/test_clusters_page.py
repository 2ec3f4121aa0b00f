"""The commands of docs/clusters.md do what the page says, as far as a machine without a cluster can tell."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from conftest import import_program

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
# Writes down what it is started with, as python, srun or sbatch.
STUB = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "{}/$(basename "$0")-$$.arguments"\n'


def run(folder, command, **environment):
    """A command of the page, from the repository's root, with programs that write down their arguments."""
    for name in ("stub_python", "srun"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STUB.format(folder))
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout, [path.read_text().splitlines() for path in sorted(folder.glob("*.arguments"))]


def of(beginning):
    found = [command for command in COMMANDS if beginning in command]
    assert found
    return found


def check_flags(given):
    """They name flags that there are, and a config that there is."""
    main = import_program("ilf_jax.main")
    flags = dict(word[2:].partition("=")[::2] for word in given if word.startswith("--"))
    assert "workdir" in flags and (ROOT / flags["config"]).exists()
    assert {name for name in flags if not name.startswith("config.")} <= set(main._OWN_FLAGS)


def test_every_command_is_checked_here():
    known = ("kubectl", "launch/tpu_pod.sh", "sbatch --", "launch/sweep.py", "launch/multiprocess.sh",
             "python -m ilf_jax.main")
    assert not [command for command in COMMANDS if not any(word in command for word in known)]


@pytest.mark.parametrize("command", of("kubectl"))
def test_kubectl(command):
    words = shlex.split(command)
    if words[1] == "apply":
        assert (ROOT / words[words.index("-f") + 1]).exists()
    else:
        assert command in (ROOT / "launch/gke_jobset.yaml").read_text()


@pytest.mark.parametrize("command", of("launch/tpu_pod.sh"))
def test_tpu_pod(command, tmp_path):
    printed, _ = run(tmp_path, command, PRINT="1")
    check_flags(shlex.split(command)[shlex.split(command).index("--") + 1:])
    assert "queued-resources create my-slice" in printed and ("--spot" in printed) == ("SPOT=1" in command)


@pytest.mark.parametrize("command", of("sbatch --"))
def test_slurm(command, tmp_path):
    options, _, flags = command.partition("launch/slurm.sbatch")
    assert set(re.findall(r"--([a-z-]+)", options)) <= {"nodes", "gpus-per-node", "cpus-per-task"}
    _, ((cpus, _, *given),) = run(tmp_path, f"bash launch/slurm.sbatch {flags}", SLURM_SUBMIT_DIR=str(ROOT),
                                  SLURM_JOB_ID="1", SLURM_CPUS_PER_TASK="16", PYTHON="stub_python")
    assert cpus == "--cpus-per-task=16" and given == ["-m", "ilf_jax.main", *shlex.split(flags)]
    check_flags(given)


@pytest.mark.parametrize("command", of("launch/multiprocess.sh"))
def test_several_processes(command, tmp_path):
    # The stub is asked for a free port, too.
    (tmp_path / "python").write_text(f'#!/usr/bin/env bash\n[ "$1" != -c ] || exec {sys.executable} "$@"\n'
                                     f'exec {tmp_path}/bin/stub_python "$@"\n')
    (tmp_path / "python").chmod(0o755)
    _, processes = run(tmp_path, command, PYTHON=str(tmp_path / "python"))
    given = shlex.split(command.partition(" -- ")[2])
    assert len(processes) == 2 and all(arguments[2 : 2 + len(given)] == given for arguments in processes)
    for arguments in processes:
        check_flags(arguments)


@pytest.mark.parametrize("command", of("python -m ilf_jax.main"))
def test_by_hand(command):
    check_flags(shlex.split(command))


@pytest.mark.parametrize("command", of("launch/sweep.py"))
def test_sweep(command, tmp_path):
    here, there = command.replace("runs/sweep", str(tmp_path / "sweep")), tmp_path / "sweep.sbatch"
    run(tmp_path, f"{sys.executable} {here.removeprefix('python ').replace('sweep.sbatch', str(there))}")
    assert "#SBATCH --array=0-" in there.read_text()


def test_the_exit_codes_are_those_of_the_manifests():
    rows = re.findall(r"^\| (\d+) \| .* \| (yes|no|–) \|$", PAGE, re.M)
    restarted = {int(code) for code, answer in rows if answer == "yes"}
    for name in ("gke_jobset.yaml", "gke_sweep.yaml"):
        (values,) = re.findall(r"values: \[(.*)\]", (ROOT / "launch" / name).read_text())
        assert restarted == {int(value) for value in values.split(",")}
