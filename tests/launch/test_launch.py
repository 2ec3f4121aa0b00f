"""The scripts in launch/ that cannot be run here: what they would do, and that they are well-formed."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.fast

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_a_script(name):
    assert (LAUNCH / name).read_text().startswith(("#!/usr/bin/env bash", "# Sourced"))
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [[], ["two", "--", "a"], ["2", "a"], ["0", "--", "a"]])
def test_multiprocess_tells_its_usage(arguments):
    done = subprocess.run(["bash", LAUNCH / "multiprocess.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: bash launch/multiprocess.sh N --")


def test_tpu_pod_prints_what_it_would_do(tmp_path):
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "mine", "us-west4-a", "v5litepod-16", "--", "--config=configs/tldr_5k.py",
         "--workdir=gs://bucket/run", "--config.data.folder=with a space"],
        env={**os.environ, "PRINT": "1", "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("git archive")
    verbs = [next(word for word in line.split() if word in ("create", "scp", "ssh", "delete")) for line in lines[1:]]
    assert verbs == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    assert "--accelerator-type=v5litepod-16" in lines[1] and all("--zone=us-west4-a" in line for line in lines[1:])
    assert "with" in lines[4] and lines[4].count("\\\\") > 0  # quoted for both shells
    assert not list(tmp_path.iterdir())


FAKE_GCLOUD = """#!/usr/bin/env bash
# Runs what would run on the slice here; the installation, and copies, are left out.
echo "$4" >> "$HOME/verbs"
for argument in "$@"; do
  case "$argument" in
    --command=*uv*) exit 0 ;;
    --command=*) cd "$HOME" && exec bash -c "${argument#--command=}" ;;
  esac
done
"""


@pytest.mark.parametrize("code", [0, 3])
def test_tpu_pod_runs_with_the_flags_given_and_ends_with_the_run_s_code(code, tmp_path):
    python = tmp_path / "ilf-jax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\nprintf "<%s>" "$@"; exit {code}\n')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gcloud").write_text(FAKE_GCLOUD)
    for program in (python, tmp_path / "bin/gcloud"):
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "mine", "zone", "v5litepod-16", "--", "--config=a.py", "--config.x=two words"],
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
             "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "<-m><ilf_jax.main><--config=a.py><--config.x=two words>" in done.stdout
    assert (tmp_path / "verbs").read_text().split() == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]


def test_jobset():
    """The fields that JobSet v1alpha2 and GKE's TPU nodes require."""
    job = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(job["spec"]) <= {"replicatedJobs", "failurePolicy", "network", "successPolicy", "startupPolicy",
                                "suspend", "coordinator", "managedBy", "ttlSecondsAfterFinished"}
    (replicated,) = job["spec"]["replicatedJobs"]
    assert set(replicated) <= {"name", "replicas", "template", "groupName", "dependsOn"}
    batch = replicated["template"]["spec"]
    assert batch["parallelism"] == batch["completions"]
    pod = batch["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    wide, high = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    (container,) = pod["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    assert wide * high == chips * batch["parallelism"]
    assert any(a.startswith("--workdir=gs://") for a in container["args"])


# What bash 3.2, the one on macOS, lacks: these two scripts are run there.
NEWER_BASH = {
    "associative arrays": r"\b(declare|local|typeset)\s+-[a-zA-Z]*A",
    "namerefs": r"\b(declare|local|typeset)\s+-[a-zA-Z]*n",
    "declare -g": r"\bdeclare\s+-[a-zA-Z]*g", "mapfile": r"\b(mapfile|readarray)\b", "coproc": r"\bcoproc\b",
    "upper and lower case": r"\$\{\w+(\[[^]]*\])?(\^|,)", "${name@Q}": r"\$\{\w+@", "negative index": r"\$\{\w+\[-",
    "|&": r"\|&", "&>>": r"&>>", ";&": r";;?&", "wait -n": r"\bwait\s+-n", "[[ -v name ]]": r"\[\[?\s+-v\s",
    "globstar": r"\bglobstar\b", "printf %()T": r"printf\b.*%\(", "BASHPID, EPOCHSECONDS": r"\$\{?(BASHPID|EPOCH)",
    "empty arrays under set -u": r"(?<!\+)\"\$\{\w+\[[@*]\]\}",
}


@pytest.mark.parametrize("name", ["test.sh", "_environment.sh"])
def test_runs_in_bash_3_2(name):
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in (LAUNCH / name).read_text().splitlines()]
    wrong = [f"{number}: {what}: {line.strip()}" for number, line in enumerate(lines, 1)
             for what, pattern in NEWER_BASH.items() if re.search(pattern, line)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("line", "what"), [
    ("declare -A seen", "associative arrays"), ('mapfile -t lines < "$file"', "mapfile"), ("echo ${name,,}", "upper"),
    ('run "${more[@]}"', "empty arrays"), ("make |& tee log", "|&"), ("local -n out=$1", "namerefs"),
])
def test_newer_bash_is_seen(line, what):
    assert [name for name, pattern in NEWER_BASH.items() if name.startswith(what) and re.search(pattern, line)]
    allowed = 'run ${more[@]+"${more[@]}"}; local file; declare -a x; echo "${1:-}" "${BASH_SOURCE[0]}" 2>&1'
    assert not [name for name, pattern in NEWER_BASH.items() if re.search(pattern, allowed)]


def make_copy(tmp_path):
    """launch/test.sh in a folder of its own, with a Python that writes down what it is asked to do."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("test.sh", "_environment.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch" / name)
    for name in ("requirements.txt", "tests/requirements.txt", "tests/requirements-models.txt"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{tmp_path}/calls"\n')
    python.chmod(0o755)


@pytest.mark.parametrize(("arguments", "calls"), [
    ([], ["ruff check .", "mypy", "pytest"]),
    (["-k", "x"], ["ruff check .", "mypy", "pytest -k x"]),
    (["--fast"], ["ruff check .", "pytest -m fast"]),
    (["--fast", "-k", "x"], ["ruff check .", "pytest -m fast -k x"]),
])
def test_test_sh_runs_the_checkers_and_pytest(arguments, calls, tmp_path):
    make_copy(tmp_path)
    environment = {**os.environ, "ILF_JAX_PYTHON": sys.executable}
    done = subprocess.run(["bash", tmp_path / "launch/test.sh", *arguments], env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "calls").read_text().splitlines()
    assert [call.removeprefix("-m ") for call in asked if "pip" not in call.split()] == calls
