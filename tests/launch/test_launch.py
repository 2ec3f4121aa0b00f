"""The scripts in launch/ that cannot be run here: what they would do, and that they are well-formed."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

pytestmark = pytest.mark.fast

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
ROOT = LAUNCH.parent
ALL_SCRIPTS = [".ci/run", *sorted(str(p.relative_to(ROOT)) for folder in (LAUNCH, ROOT / "benchmarks")
                                  for p in folder.iterdir() if p.suffix in (".sh", ".sbatch"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_a_script(name):
    assert (LAUNCH / name).read_text().startswith(("#!/usr/bin/env bash", "# shellcheck shell=bash\n# Sourced"))
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", "-x", "-P", LAUNCH, *ALL_SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [[], ["two", "--", "a"], ["2", "a"], ["0", "--", "a"]])
def test_multiprocess_tells_its_usage(arguments):
    done = subprocess.run(["bash", LAUNCH / "multiprocess.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: bash launch/multiprocess.sh N --")


POD = ["mine", "us-west4-a", "v5litepod-16", "--", "--config=configs/tldr_5k.py", "--workdir=gs://bucket/run",
       "--config.data.folder=it's a space"]
SECRET = "hf_not_to_be_seen"

GCLOUD = """#!{python}
# Knows those commands and flags of gcloud (of September 2025) that are needed; runs here what would run on the slice.
import json, os, pathlib, shutil, subprocess, sys
where = {{"zone", "project", "worker"}}
flags = {{
    "compute tpus queued-resources create": where | {{"node-id", "accelerator-type", "runtime-version", "spot"}},
    "alpha compute tpus queued-resources create": where | {{
        "node-id", "accelerator-type", "runtime-version", "spot", "reservation", "provisioning-model"}},
    "compute tpus queued-resources describe": where | {{"format"}},
    "compute tpus queued-resources delete": where | {{"force", "quiet", "async"}},
    "compute tpus tpu-vm ssh": where | {{"command", "ssh-flag"}},
    "compute tpus tpu-vm scp": where | {{"recurse", "compress"}},
}}
given = sys.argv[1:]
command = next((name for name in flags if given[: len(name.split())] == name.split()), None)
if command is None:
    sys.exit(f"gcloud: invalid choice: {{given}}")
rest = given[len(command.split()):]
options = dict(word[2:].partition("=")[::2] for word in rest if word.startswith("--"))
words = [word for word in rest if not word.startswith("--")]
if set(options) - flags[command]:
    sys.exit(f"gcloud: unrecognized arguments: {{set(options) - flags[command]}}")
home, verb = pathlib.Path(os.environ["HOME"]), command.split()[-1]
with (home / "calls").open("a") as f:
    f.write(json.dumps([verb, *rest]) + "\\n")
if verb == "describe":
    states = (home / "states").read_text().split()
    print(states[0].strip("-"))  # "-": it tells nothing
    (home / "states").write_text(" ".join(states[1:] or states))
elif verb == "scp" and words[-1] == "mine:":
    for file in words[:-1]:
        shutil.copy(file, home)
elif verb == "ssh":
    if (home / "broken").exists() and "run.log" in options["command"]:
        sys.exit(255)
    if "uv venv" not in options["command"]:
        sys.exit(subprocess.run(["bash", "-c", options["command"]], cwd=home).returncode)
"""


def tpu_pod(home, *arguments, states="WAITING_FOR_RESOURCES ACTIVE", code=0, **environment):
    """tpu_pod.sh, with a gcloud, and a Python on the slice, that write down what they are given."""
    python = home / "ilf-jax/.venv/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    (home / "bin").mkdir(exist_ok=True)
    python.write_text(f'#!/usr/bin/env bash\nprintf "<%s>" "$@" "token=${{HF_TOKEN:-}}"; exit {code}\n')
    (home / "bin/gcloud").write_text(GCLOUD.format(python=sys.executable))
    (home / "states").write_text(states)
    for program in (python, home / "bin/gcloud"):
        program.chmod(0o755)
    return subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", *(arguments or POD)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(home),
             "POLL_SECONDS": "0.01", **environment})


def calls(home):
    return [json.loads(line) for line in (home / "calls").read_text().splitlines()]


@pytest.mark.parametrize("code", [0, 3])
def test_tpu_pod_runs_with_the_flags_given_and_ends_with_the_run_s_code(code, tmp_path):
    done = tpu_pod(tmp_path, code=code, HF_TOKEN=SECRET)
    assert done.returncode == code, done.stderr
    assert "<-m><ilf_jax.main><--config=configs/tldr_5k.py><--workdir=gs://bucket/run>" in done.stdout
    assert "<--config.data.folder=it's a space>" in done.stdout and f"<token={SECRET}>" in done.stdout
    made = calls(tmp_path)
    assert [verb for verb, *_ in made] == ["create", "describe", "describe", "scp", "ssh", "ssh", "ssh", "scp",
                                           "delete"]
    assert {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"} < set(made[0])
    assert all("--zone=us-west4-a" in call for call in made)
    assert SECRET not in (tmp_path / "calls").read_text()
    assert not [p for p in tmp_path.rglob("hf_token")]


def test_what_tpu_pod_prints_can_be_pasted(tmp_path):
    printed = tpu_pod(tmp_path, PRINT="1", HF_TOKEN=SECRET, SPOT="1")
    assert printed.returncode == 0 and not (tmp_path / "calls").exists()
    assert SECRET not in printed.stdout + printed.stderr and "\\ " not in printed.stdout
    pasted = subprocess.run(
        ["bash", "-e"], input=printed.stdout, capture_output=True, text=True, cwd=LAUNCH.parent,
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
             "HF_TOKEN": SECRET})
    assert pasted.returncode == 0, pasted.stderr
    assert "<--config.data.folder=it's a space>" in pasted.stdout and f"<token={SECRET}>" in pasted.stdout
    assert "--spot" in calls(tmp_path)[0] and not [p for p in tmp_path.rglob("hf_token")]
    (LAUNCH.parent / "mine.log").unlink(missing_ok=True)


@pytest.mark.parametrize(("type", "software"), [
    ("v4-32", "tpu-ubuntu2204-base"), ("v5litepod-4", "v2-alpha-tpuv5-lite"), ("v5p-64", "v2-alpha-tpuv5"),
    ("v6e-16", "v2-alpha-tpuv6e")])
def test_tpu_software_goes_by_the_type(type, software, tmp_path):
    printed = tpu_pod(tmp_path, "mine", "zone", type, "--", "--config=a.py", PRINT="1")
    assert f"--runtime-version={software}" in printed.stdout


@pytest.mark.parametrize(("type", "environment", "words"), [
    ("tpu7x-16", {}, "gke_jobset.yaml"), ("h100-8", {}, "set VERSION"),
    ("v4-8", {"SPOT": "1", "RESERVATION": "ours"}, "exclude each other")])
def test_tpu_pod_refuses(type, environment, words, tmp_path):
    done = tpu_pod(tmp_path, "mine", "zone", type, "--", "--config=a.py", **environment)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "calls").exists()


def test_a_reservation_is_named(tmp_path):
    assert tpu_pod(tmp_path, RESERVATION="ours").returncode == 0
    assert "--reservation=ours" in calls(tmp_path)[0]


@pytest.mark.parametrize(("states", "words"), [("FAILED", "request for mine has failed"),
                                               ("- ACTIVE SUSPENDING", "preempted"), ("ACTIVE FAILED", "preempted"),
                                               ("WAITING_FOR_RESOURCES -", "does not tell the state of mine")])
def test_a_slice_that_is_lost_ends_in_75_and_is_deleted(states, words, tmp_path):
    if "ACTIVE" in states.split():
        (tmp_path / "broken").touch()
    done = tpu_pod(tmp_path, states=states)
    assert done.returncode == 75 and words in done.stderr, done.stderr
    assert calls(tmp_path)[-1][0] == "delete"


def test_a_slice_of_which_nothing_is_heard_is_left_alone_for_the_run_may_go_on(tmp_path):
    (tmp_path / "broken").touch()
    done = tpu_pod(tmp_path, states="ACTIVE -")
    assert done.returncode == 75 and "does not tell the state of mine" in done.stderr, done.stderr
    assert [verb for verb, *_ in calls(tmp_path)].count("describe") == 11 and calls(tmp_path)[-1][0] == "describe"


SLURM = {
    "srun": 'exec bash -c "exit $(head -n 1 codes)"',
    "scontrol": 'if [ "$1" = show ]; then echo JobState=RUNNING; else echo "$@" >> requeued; fi',
}


def slurm_job(folder, codes):
    """Whether a job is requeued after each of these exit codes of its run; the script's own exit code must be that."""
    (folder / "bin").mkdir()
    for name, body in SLURM.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder),
                   "SLURM_JOB_ID": "7"}
    requeued = []
    for i, code in enumerate(codes):
        (folder / "codes").write_text(f"{code}\n")
        (folder / "requeued").unlink(missing_ok=True)
        done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "--workdir=x"], capture_output=True, text=True,
                              env={**os.environ, **environment, "SLURM_RESTART_COUNT": str(i)})
        assert done.returncode == code and not done.stderr, done.stderr
        requeued.append((folder / "requeued").exists())
    return requeued


@pytest.mark.parametrize(("codes", "requeued"), [
    ((0,), [False]), ((2,), [False]), ((70,), [False]), ((130,), [False]),
    ((143,) * 12 + (75, 137), [True] * 14), ((75,) * 11, [True] * 10 + [False]),
    ((75,) * 9 + (143, 137) + (75,) * 9, [True] * 20),
])
def test_a_slurm_job_requeues_itself_after_what_is_worth_it(codes, requeued, tmp_path):
    assert slurm_job(tmp_path, codes) == requeued
    assert (tmp_path / "ilf-jax-7.failures").exists() == (requeued[-1] and codes[-1] != 143)


def strict(schema):
    """An OpenAPI schema of Kubernetes' as JSON schema that refuses fields it does not name."""
    schema = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "format"}
    if "properties" in schema:
        schema["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        schema["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        schema["items"] = strict(schema["items"])
    return schema


@pytest.fixture(scope="module")
def jobset_schema():
    """JobSet's own, which has a Job's inside."""
    path = LAUNCH.parents[1] / "shared/data/jobset/jobset.x-k8s.io_jobsets.yaml"
    if not path.exists():
        pytest.skip("JobSet's schema is not here")
    (definition, *_) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1alpha2")
    return version["schema"]["openAPIV3Schema"]


def manifest(name):
    return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def test_jobset(jobset_schema):
    job = manifest("gke_jobset.yaml")
    jsonschema.validate(job, strict(jobset_schema))
    pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["envFrom_"] = []
    with pytest.raises(jsonschema.ValidationError, match="envFrom_"):
        jsonschema.validate(job, strict(jobset_schema))


def test_jobset_has_a_process_for_each_host_and_fails_only_where_a_restart_is_in_vain():
    job = manifest("gke_jobset.yaml")
    (replicated,) = job["spec"]["replicatedJobs"]
    batch = replicated["template"]["spec"]
    assert batch["parallelism"] == batch["completions"]
    pod = batch["template"]["spec"]
    wide, high = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    (container,) = pod["containers"]
    assert wide * high == int(container["resources"]["limits"]["google.com/tpu"]) * batch["parallelism"]
    assert job["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    assert pod["serviceAccountName"] and not any("value" in e for e in container["env"] if e["name"] == "HF_TOKEN")


def test_sweep_job(jobset_schema):
    job = manifest("gke_sweep.yaml")
    of_jobset = jobset_schema["properties"]["spec"]["properties"]["replicatedJobs"]["items"]["properties"]
    schema = strict(of_jobset["template"])["properties"]["spec"]
    jsonschema.validate(job["spec"], schema)
    with pytest.raises(jsonschema.ValidationError, match="completion_mode"):
        jsonschema.validate({**job["spec"], "completion_mode": "Indexed"}, schema)
    assert "--cell=$(JOB_COMPLETION_INDEX)" in job["spec"]["template"]["spec"]["containers"][0]["args"]


def action(job_spec, code):
    """What Kubernetes does when a pod's container ends with a code: the action of the first rule that matches it."""
    (container,) = job_spec["template"]["spec"]["containers"]
    for rule in job_spec["podFailurePolicy"]["rules"]:
        on = rule["onExitCodes"]
        if on["containerName"] == container["name"] and code and (code in on["values"]) == (on["operator"] == "In"):
            return rule["action"]
    return "Count"  # against backoffLimit, upon which JobSet restarts; a Job restarts the pod


@pytest.mark.parametrize(("code", "restarts"), [(75, True), (137, True), (143, True), (1, False), (2, False),
                                                (3, False), (70, False), (134, False)])
def test_kubernetes_restarts_what_is_worth_it(code, restarts):
    of_jobset = manifest("gke_jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert action(of_jobset, code) == ("Count" if restarts else "FailJob")
    assert action(manifest("gke_sweep.yaml")["spec"], code) == ("Count" if restarts else "FailIndex")


def test_image_runs_as_a_user_and_leaves_out_what_is_not_needed():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert lines.index("USER 1000") > lines.index("COPY . .")
    assert {".git", ".venv", "tests"} <= set((LAUNCH.parent / ".dockerignore").read_text().split())


# What bash 3.2, the one on macOS, lacks.
NEWER_BASH = {
    "associative arrays": r"\b(declare|local|typeset)\s+-[a-zA-Z]*A",
    "namerefs": r"\b(declare|local|typeset)\s+-[a-zA-Z]*n",
    "declare -g": r"\bdeclare\s+-[a-zA-Z]*g", "mapfile": r"\b(mapfile|readarray)\b", "coproc": r"\bcoproc\b",
    "upper and lower case": r"\$\{\w+(\[[^]]*\])?(\^|,)", "${name@Q}": r"\$\{\w+@", "negative index": r"\$\{\w+\[-",
    "|&": r"\|&", "&>>": r"&>>", ";&": r";;?&", "wait -n": r"\bwait\s+-n", "[[ -v name ]]": r"\[\[?\s+-v\s",
    "globstar": r"\bglobstar\b", "printf %()T": r"printf\b.*%\(", "BASHPID, EPOCHSECONDS": r"\$\{?(BASHPID|EPOCH)",
    "empty arrays under set -u": r"(?<!\+)\"\$\{\w+\[[@*]\]\}",
}
# What POSIX, or macOS's version of a tool, lacks.
NOT_POSIX = {
    "sed -i without a suffix": r"\bsed\s+(-\w+\s+)*-[a-zA-Z]*i(\s|$)", "sed -r": r"\bsed\s+-[a-zA-Z]*r\b",
    "readlink -f": r"\breadlink\s+-\w*f", "realpath": r"\brealpath\b", "date -d": r"\bdate\s+(-\w+\s+)*(-d|--date)",
    "date %N": r"\bdate\b.*\+\S*%N", "grep -P": r"\bgrep\s+(-\w+\s+)*-\w*P",
    "xargs -r": r"\bxargs\s+(-\w+\s+)*-\w*[rd]\b",
    "stat -c": r"\bstat\s+-c", "cp --": r"\bcp\s+--\w", "mktemp --": r"\bmktemp\s+--",
    "sort -V": r"\bsort\s+-\w*[Vh]\b",
    "timeout": r"(^|[;&|(]\s*)timeout\s", "nproc": r"\bnproc\b", "head -n -N": r"\bhead\s+-n\s*-",
    "tac": r"(^|\|\s*)tac\b",
}
NOT_EVERYWHERE = NEWER_BASH | NOT_POSIX


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_runs_in_bash_3_2_with_posix_tools(name):
    text = (ROOT / name).read_text()
    for never_empty in re.findall(r"^(\w+)=\([^)\s]", text, re.MULTILINE):
        text = text.replace(f'"${{{never_empty}[@]}}"', never_empty)
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()]
    wrong = [f"{number}: {what}: {line.strip()}" for number, line in enumerate(lines, 1)
             for what, pattern in NOT_EVERYWHERE.items() if re.search(pattern, line)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("line", "what"), [
    ("declare -A seen", "associative arrays"), ('mapfile -t lines < "$file"', "mapfile"), ("echo ${name,,}", "upper"),
    ('run "${more[@]}"', "empty arrays"), ("make |& tee log", "|&"), ("local -n out=$1", "namerefs"),
    ("sed -i s/a/b/ file", "sed -i"), ("sed -n -i p file", "sed -i"), ("sed -Ei s/a/b/ file", "sed -i"),
    ('here="$(readlink -f "$0")"', "readlink"), ("date -u -d yesterday", "date -d"), ("date +%s%N", "date %N"),
    (r"grep -oP '\d+'", "grep -P"), ("ls | xargs -r rm", "xargs"), ("stat -c %s file", "stat"),
    ("head -n -1 file", "head"), ("timeout 5 true", "timeout"),
])
def test_what_is_not_everywhere_is_seen(line, what):
    assert [name for name, pattern in NOT_EVERYWHERE.items() if name.startswith(what) and re.search(pattern, line)]


@pytest.mark.parametrize("line", [
    'run ${more[@]+"${more[@]}"}; local file; declare -a x; echo "${1:-}" "${BASH_SOURCE[0]}" 2>&1',
    "sed -i.bak s/a/b/ file; sed -n 's/in/ out/p'; date -u +%s; grep -Eo x; head -n 1; cp -R a b; sort -k 2 -n",
])
def test_what_is_everywhere_is_allowed(line):
    assert not [name for name, pattern in NOT_EVERYWHERE.items() if re.search(pattern, line)]


def make_copy(tmp_path):
    """launch/test.sh in a folder of its own, with a Python that writes down what it is asked to do."""
    (tmp_path / "launch").mkdir()
    for name in ("tests", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("test.sh", "_environment.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch" / name)
    for name in ("requirements", "tests/requirements", "tests/requirements-models", "docs/requirements"):
        (tmp_path / f"{name}.txt").touch()
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


THIS = "{}.{}".format(*sys.version_info)


@pytest.mark.parametrize(("arguments", "folder"), [
    (["--newest", THIS, "-k", "x"], f".venv-highest-{THIS}"), (["--newest", sys.executable, "-k", "x"],
                                                               f".venv-highest-{THIS}"),
])
def test_versions_are_installed_elsewhere_and_tested_there(arguments, folder, tmp_path):
    make_copy(tmp_path)
    other = tmp_path / folder / "bin/python"
    other.parent.mkdir(parents=True)
    shutil.copy(tmp_path / ".venv/bin/python", other)
    environment = {**os.environ, "ILF_JAX_PYTHON": sys.executable, "HOME": str(tmp_path),
                   "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", tmp_path / "launch/test.sh", *arguments], env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    install, *_, tests = [call for call in (tmp_path / "calls").read_text().splitlines()
                          if "uv pip install" in call or "pytest -m" in call]
    assert f"--python {folder}/bin/python --resolution highest -r setup.py" in install
    assert tests.startswith("-m pytest -m versions --ignore=tests/browser ") and tests.endswith(" -k x")


def test_a_python_that_is_not_here_is_skipped_with_a_reason(tmp_path):
    make_copy(tmp_path)
    environment = {**os.environ, "ILF_JAX_PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run(["bash", tmp_path / "launch/test.sh", "--newest", "3.99"], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "skipped: none of these is installed: Python 3.99" in done.stderr
    assert not (tmp_path / "calls").exists()


def ci_run(folder, code):
    """.ci/run in a folder of its own, with a launch/test.sh that writes down its arguments and fails by `code`."""
    for name in (".ci", "launch", "tests/browser", "bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "launch/test.sh").write_text(f'echo "$*" >> calls\ncase "$*" in {code}\nesac\n')
    (folder / "bin/id").write_text("#!/bin/sh\necho 1000\n")  # so that nothing is installed
    (folder / "bin/id").chmod(0o755)
    done = subprocess.run(["bash", folder / ".ci/run"], capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
    return done, (folder / "calls").read_text().splitlines()


PARTS = ["--ignore=tests/cloud --ignore=tests/browser", "tests/cloud", "tests/browser", "--lowest", "--newest"]


def test_ci_runs_every_part(tmp_path):
    done, calls = ci_run(tmp_path, "*) exit 0 ;;")
    assert done.returncode == 0 and calls == PARTS
    assert [line.split()[-1] for line in done.stdout.splitlines()[-5:]] == ["passed"] * 5


@pytest.mark.parametrize("part", ["--ignore*", "tests/cloud", "--newest"])
def test_a_part_that_fails_hides_no_other(part, tmp_path):
    done, calls = ci_run(tmp_path, f"{part}) exit 3 ;;")
    assert done.returncode == 1 and calls == PARTS
    summary = done.stdout.splitlines()[-5:]
    assert sum("failed with exit code 3" in line for line in summary) == 1
    assert sum(line.endswith("passed") for line in summary) == 4


def quickstart(folder, body, **environment):
    """launch/quickstart.sh in a folder of its own; `body` is what its Python does when it is asked for the run."""
    make_copy(folder)
    shutil.copy(LAUNCH / "quickstart.sh", folder / "launch")
    (folder / "setup.py").touch()
    (folder / ".venv/bin/python").write_text(
        f'#!/usr/bin/env bash\necho "$*" >> "{folder}/calls"\ncase "$*" in *ilf_jax.main*) {body};; esac\n')
    return subprocess.Popen(["bash", folder / "launch/quickstart.sh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, **environment})


def test_the_quickstart_ends_with_what_comes_next(tmp_path):
    out, err = quickstart(tmp_path, "echo table").communicate()
    table, _, next_steps = out.partition("\n\nTo go on:\n")
    assert table == "table" and err == "installing requirements.txt ...\n"
    assert f"  cd {tmp_path} && source .venv/bin/activate\n" in next_steps
    assert "  ilf-jax generate --workdir=runs/quickstart " in next_steps
    assert "--no-deps --editable ." in (tmp_path / "calls").read_text()


def test_a_quickstart_that_fails_ends_with_the_run_s_code(tmp_path):
    process = quickstart(tmp_path, "echo no >&2; exit 75")
    out, err = process.communicate()
    assert out == "" and err.endswith("\nno\n") and process.returncode == 75


def test_a_quickstart_that_is_stopped_stops_the_run(tmp_path):
    process = quickstart(tmp_path, 'trap "echo saved; exit 143" TERM; echo started; while :; do read -t 1 < <(:); done')
    assert process.stdout.readline() == "started\n"
    process.terminate()
    assert process.communicate(timeout=60)[0] == "saved\n" and process.returncode == 143


@pytest.mark.parametrize(("there", "said"), [
    ("exit 3", "does not start; name a Python 3.11 or later"), ("echo 3.9; exit 1", "does not start"),
    ('case "$*" in *exit*) exit 1;; *) echo 3.9;; esac', "is Python 3.9; 3.11 or later is needed"),
    ("echo 3.13", "error: .venv has Python 3.11, and ILF_JAX_PYTHON="),
])
def test_a_python_that_cannot_be_used_is_refused(tmp_path, there, said):
    other = tmp_path / "other_python"
    other.write_text(f"#!/usr/bin/env bash\n{there}\n")
    other.chmod(0o755)
    (tmp_path / "clone/.venv").mkdir(parents=True)
    (tmp_path / "clone/.venv/pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    process = quickstart(tmp_path / "clone", "true", ILF_JAX_PYTHON=str(other))
    assert said in process.communicate()[1] and process.returncode == 2
    assert not (tmp_path / "clone/calls").exists()
