"""Several processes on one machine are one run: the same records as one process, killed or not."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import several_devices

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import checkpoint, distributed

ROOT = pathlib.Path(__file__).parents[2]
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


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_two(workdir):
    """The two processes, one by one, for a test to kill."""
    port = free_port()
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
    env = {**ENVIRONMENT, **several_devices(2)}
    done = subprocess.run([sys.executable, "-m", "ilf_jax.main", *FLAGS, f"--workdir={tmp_path / 'one'}"], cwd=ROOT,
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records(whole)
    assert len([name for name in found if "refine" in name]) > 4
    assert found == records(tmp_path / "one")
    assert (whole / "report.html").exists()


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


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "1",
         "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "4"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "3"}


@pytest.mark.parametrize(("environment", "processes"), [
    ({}, 1), (SLURM, 4), (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, 1), (OPEN_MPI, 3),
    (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, 1),  # an interactive shell within a job of four tasks
    (SLURM | {"SLURM_NTASKS": "many"}, 1),
])
def test_jax_detects_the_other_processes(environment, processes, monkeypatch):
    for name in [*SLURM, *OPEN_MPI]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed._detected_processes() == processes


@pytest.mark.parametrize(("platforms", "names", "processes"), [
    ("tpu", "a,b", 2), ("tpu", "a", 1), ("tpu", None, 4), ("cpu", None, 1), ("cpu", "a,b", 2),
])
def test_hosts_with_tpus(platforms, names, processes, monkeypatch):
    """GKE lists them in TPU_WORKER_HOSTNAMES; elsewhere the metadata server does, which only TPU processes ask."""
    from jax._src.clusters import cloud_tpu_cluster

    def metadata(key):
        if names is not None:
            return "", 404  # GKE's knows nothing about workers
        assert platforms == "tpu", "the metadata server was asked"
        return {"agent-worker-number": "1", "worker-network-endpoints": "a,b,c,d", "tpu-env": ""}[key], 200

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", metadata)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "to be restored after the test")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    if names is not None:
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    assert distributed._detected_processes() == processes


class Coordinator:
    """Of two processes, as process 0 sees it."""

    def __init__(self):
        self.kept, self.most_kept, self.decisions = {}, 0, 0

    def key_value_set(self, key, value):
        self.kept[key] = value
        self.most_kept, self.decisions = max(self.most_kept, len(self.kept)), self.decisions + 1

    def key_value_delete(self, folder):
        self.kept = {key: value for key, value in self.kept.items() if not key.startswith(f"{folder}/")}

    def wait_at_barrier(self, name, patience):
        pass


@pytest.fixture
def coordinator(monkeypatch):
    fake = Coordinator()
    monkeypatch.setattr(distributed, "_client", lambda: fake)
    monkeypatch.setattr(distributed, "_group", distributed._Group(index=0, count=2))
    return fake


@pytest.mark.parametrize("begun", [0, 5000])
def test_a_clock_asks_rarely(coordinator, monkeypatch, begun):
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    clock = checkpoint.Clock(every_steps=10**9, every_minutes=10)
    due = []
    for step in range(begun + 1, begun + 3001):
        now += 1.0
        if clock.is_due(step):
            due.append(step - begun)
    assert due == [601, 1202, 1803, 2404]
    assert coordinator.decisions < 100 and coordinator.most_kept <= 32


def test_saving_by_steps_asks_nobody(coordinator):
    clock = checkpoint.Clock(every_steps=3, every_minutes=0)
    assert [step for step in range(1, 10) if clock.is_due(step)] == [3, 6, 9]
    assert coordinator.decisions == 0


def test_decisions_are_deleted_once_all_have_read_them(coordinator):
    for i in range(100):
        assert distributed.on_main(lambda i=i: (i,)) == [i]
    assert coordinator.most_kept <= 32
    for kind in (InputError, TryAgainError):
        with pytest.raises(kind, match="no"):
            distributed.on_main(lambda kind=kind: (_ for _ in ()).throw(kind("no")))
        assert not coordinator.kept


CLOCKS = """
import json, random, sys, time
from ilf_jax.runtime import checkpoint, distributed
index = int(sys.argv[1])
distributed.start(sys.argv[2], 2, index)
pause, clock = random.Random(index), checkpoint.Clock(every_steps=250, every_minutes=0.2 / 60)
due, kept = [], 0
for step in range(1, 801):
    time.sleep(0.002 * pause.random())
    if clock.is_due(step):
        due.append(step)
    if index == 0:
        kept = max(kept, len(distributed._client().key_value_dir_get(distributed._DECISIONS)))
distributed.barrier()
left = len(distributed._client().key_value_dir_get(distributed._DECISIONS)) if index == 0 else 0
distributed.barrier()
print(json.dumps({"due": due, "kept": kept, "left": left, "decisions": distributed._group.decisions}))
"""


def test_clocks_of_two_processes_agree():
    address = f"127.0.0.1:{free_port()}"
    processes = [subprocess.Popen([sys.executable, "-c", CLOCKS, str(i), address], cwd=ROOT, env=ENVIRONMENT,
                                  stdout=subprocess.PIPE, text=True) for i in range(2)]
    first, second = (json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes)
    assert first["due"] == second["due"] and {250, 500, 750} < set(first["due"])
    assert first["decisions"] == second["decisions"] < 400
    assert 0 < first["kept"] <= 32 and first["left"] == 0
