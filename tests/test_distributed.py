"""Several processes on one machine are one run: the same records as one process, killed or not."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = [
    "--config=configs/quickstart.py", "--config.iterations=2", "--config.baselines=()", "--config.data.train_size=12",
    "--config.data.eval_size=6", "--config.refine.num_candidates=2", "--config.checkpoint.every_steps=1",
    "--config.finetune.dev_fraction=0.3",
    *(f"--config.{part}.batch_size=4" for part in ("draft", "refine", "score", "finetune", "evaluate")),
]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def records(folder):
    """Path -> bytes of all records and step logs."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if p.name != "performance.jsonl"}


def launch(workdir, *flags):
    return subprocess.run(["bash", "launch/multiprocess.sh", "2", "--", *FLAGS, f"--workdir={workdir}", *flags],
                          cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)


def start_two(workdir):
    """The two processes, one by one, for a test to kill."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "ilf_jax.main", *FLAGS, f"--workdir={workdir}", f"--process_id={i}",
             f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"],
            cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(2)
    ]


def wait_for(workdir, pattern, seconds=200):
    end = time.monotonic() + seconds
    while not list(workdir.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} did not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run by two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    done = launch(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_two_processes_leave_what_one_leaves(whole, tmp_path):
    env = {**ENVIRONMENT, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-m", "ilf_jax.main", *FLAGS, f"--workdir={tmp_path / 'one'}"], cwd=ROOT,
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records(whole)
    assert len([name for name in found if "refine" in name]) > 4
    assert found == records(tmp_path / "one")
    assert (whole / "report.html").exists()


@pytest.mark.parametrize(("victim", "moment"), [(1, "iteration_001/refine/0*.jsonl"),
                                                (0, "iteration_001/finetune/state/1")])
def test_one_killed_ends_the_other_and_both_go_on_later(victim, moment, whole, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(folder)
    wait_for(folder, moment)
    processes[victim].send_signal(signal.SIGKILL)
    started = time.monotonic()
    said, _ = processes[1 - victim].communicate(timeout=120)
    took = time.monotonic() - started
    processes[victim].communicate()
    assert processes[1 - victim].returncode not in (0, None)
    assert took < 60, said
    assert f"process {1 - victim} of 2 stops" in said or "another task died" in said, said
    done = launch(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(folder) == records(whole)


def test_sigterm_saves_and_ends_all(whole, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(folder)
    wait_for(folder, "iteration_001/refine/0*.jsonl")
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 143, said
    done = launch(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(folder) == records(whole)


def test_bad_input_is_told_by_all(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    done = launch(tmp_path / "run", "--config.seed=7")
    assert done.returncode == 2
    assert done.stderr.count("config.seed: 0 -> 7") == 2


@pytest.mark.parametrize(("given", "words"), [
    (("host:1", None, None), ["--num_processes", "--process_id", "go together"]),
    (("host:1", 2, 2), ["--process_id=2", "0 to 1"]),
])
def test_flags_that_do_not_go_together(given, words):
    with pytest.raises(InputError) as error:
        distributed.start(*given)
    for word in words:
        assert word in str(error.value)


def test_one_process_agrees_with_itself():
    distributed.start()  # nothing says that there are others
    assert (distributed.index(), distributed.count(), distributed.is_main()) == (0, 1, True)
    assert distributed.on_main(lambda: {"a": 1}) == {"a": 1}
    distributed.barrier()


@pytest.mark.parametrize(("name", "value", "several"), [
    ("SLURM_STEP_NUM_TASKS", "1", False), ("SLURM_STEP_NUM_TASKS", "8", True), ("TPU_WORKER_HOSTNAMES", "a", False),
    ("TPU_WORKER_HOSTNAMES", "a,b", True), ("JAX_COORDINATOR_ADDRESS", "host:1234", True),
])
def test_the_environment_tells_of_others(name, value, several, monkeypatch):
    for known in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv(name, value)
    assert distributed._several() == several
