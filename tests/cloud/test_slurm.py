"""Jobs of a real Slurm, two nodes on this machine: at their time limit, requeued, cancelled, in an array."""

import os
import pathlib
import subprocess
import sys

import pytest
import slurm_cluster
from conftest import several_devices

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = [
    "--config=configs/quickstart.py", "--config.iterations=2", "--config.baselines=()", "--config.data.train_size=12",
    "--config.data.eval_size=6", "--config.refine.num_candidates=2", "--config.checkpoint.every_steps=1",
    f"--config.score.method=file:{ROOT / 'tests/cloud/held_reward.py'}:reward",
    *(f"--config.{part}.batch_size=4" for part in ("draft", "refine", "score", "finetune", "evaluate")),
]
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
NODES = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1"]


def records(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if p.name != "performance.jsonl"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Records of the same run by one process with two devices, outside of Slurm."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    env = {**os.environ, **ENVIRONMENT, "XLA_FLAGS": several_devices(2)["XLA_FLAGS"]}
    done = subprocess.run([sys.executable, "-m", "ilf_jax.main", *FLAGS, f"--workdir={folder}"], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return records(folder)


def submit(cluster, folder, more=(), **environment):
    """A job of two processes. (Its number, its log.)"""
    log = folder.with_suffix(".log")
    # jax would ask for the address of node n1, which has none: both nodes are this machine.
    address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{slurm_cluster.free_port()}"}
    job = cluster.submit(*NODES, f"--output={log}", f"--chdir={ROOT}", str(ROOT / "launch/slurm.sbatch"), *FLAGS,
                         f"--workdir={folder}", *more, **ENVIRONMENT, **address, **environment)
    return job, log


def held(cluster, folder, name):
    """A job that stays in its score stage as long as its hold exists, however fast the machine. (Number, log, hold.)"""
    hold = folder / f"{name}.hold"
    hold.touch()
    return *submit(cluster, folder / name, HOLD=str(hold)), hold


@pytest.fixture(scope="module")
def disturbed(cluster, tmp_path_factory):
    """How -> number, log and folder of a job that was disturbed while it scored. They run at the same time."""
    folder = tmp_path_factory.mktemp("disturbed")
    jobs = {name: held(cluster, folder, name) for name in ("time limit", "requeue", "kill", "cancel")}
    cluster.wait(lambda: all((folder / name / "iteration_001/score").exists() for name in jobs))
    number = {name: job for name, (job, _, _) in jobs.items()}
    cluster.call("scontrol", "update", f"JobId={number['time limit']}", "TimeLimit=1")
    cluster.call("scontrol", "requeue", number["requeue"])
    cluster.call("scancel", "--signal=KILL", f"{number['kill']}.0")
    cluster.call("scancel", number["cancel"])
    cluster.wait(lambda: cluster.has_sent("SIGKILL signal", number["kill"]))
    cluster.wait(lambda: cluster.has_sent("signal 15", number["time limit"]))
    for _, _, hold in jobs.values():
        hold.unlink()
    cluster.wait(lambda: cluster.state(number["time limit"]) == "PENDING")  # it saved, and is to run again
    cluster.call("scontrol", "update", f"JobId={number['time limit']}", "TimeLimit=30")
    return {name: (job, log, folder / name) for name, (job, log, _) in jobs.items()}


def ended(cluster, job):
    return cluster.state(job) not in ("PENDING", "RUNNING", "COMPLETING")


def resume(cluster, job):
    """Waits until a requeued job has run again, which it does after `cred_expire` seconds, and is complete."""
    cluster.wait(lambda: cluster.fact(job, "Restarts") == "1" and ended(cluster, job))
    assert cluster.state(job) == "COMPLETED"


def test_at_the_time_limit_a_job_saves_and_resumes(cluster, disturbed, undisturbed):
    job, log, folder = disturbed["time limit"]
    resume(cluster, job)
    said = log.read_text()
    assert said.count("Exited with exit code 143") == 2, said
    assert records(folder) == undisturbed


@pytest.mark.parametrize("how", ["requeue", "kill"])
def test_a_job_resumes_after(how, cluster, disturbed, undisturbed):
    job, _, folder = disturbed[how]
    resume(cluster, job)
    assert records(folder) == undisturbed


def test_a_canceled_job_stays_ended_and_another_resumes(cluster, disturbed, undisturbed):
    job, _, folder = disturbed["cancel"]
    cluster.wait(lambda: ended(cluster, job))
    assert cluster.state(job) == "CANCELLED"
    before = records(folder)
    assert before.keys() < undisturbed.keys()
    job, _ = submit(cluster, folder)
    cluster.wait(lambda: ended(cluster, job))
    assert cluster.state(job) == "COMPLETED" and records(folder) == undisturbed


def test_bad_input_is_not_tried_again(cluster, tmp_path):
    job, log = submit(cluster, tmp_path / "run", more=["--config.iterations=-1"])
    cluster.wait(lambda: ended(cluster, job))
    assert cluster.state(job) == "FAILED" and "config.iterations: -1 is out of range" in log.read_text()


SWEEP = """
from ilf_jax.sweeps.grid import Sweep, axis


def get_sweep():
    return Sweep("configs/quickstart.py", axis("seed", 0, 1), ("evaluate/insult_rate",), always={always!r})
"""


def test_an_array_runs_a_sweep(cluster, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    always = {"score.method": f"file:{ROOT / 'tests/cloud/held_reward.py'}:reward", "iterations": 1,
              "baselines": (), "data.train_size": 12, "data.eval_size": 6, "refine.num_candidates": 2}
    (tmp_path / "sweep.py").write_text(SWEEP.format(always=always))
    flags = [f"--config={tmp_path / 'sweep.py'}", f"--workdir={tmp_path / 'cells of a sweep'}"]
    environment = {**os.environ, **ENVIRONMENT}

    def sweep(*more):
        done = subprocess.run([sys.executable, "launch/sweep.py", *flags, *more], cwd=ROOT, env=environment,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "array.sbatch").write_text(sweep("--emit=slurm"))
    job = cluster.submit(f"--chdir={ROOT}", str(tmp_path / "array.sbatch"), HOLD=str(hold), **ENVIRONMENT)
    folder = tmp_path / "cells of a sweep" / "cells"
    cluster.wait(lambda: (folder / "seed=1/iteration_001/score").exists())
    cluster.call("scancel", "--signal=TERM", f"{job}_1.0")  # as the time limit does
    cluster.wait(lambda: cluster.has_sent("signal 15", cluster.fact(f"{job}_1", "JobId"), nodes=1))
    hold.unlink()
    cluster.wait(lambda: all((folder / f"seed={seed}.done").exists() for seed in (0, 1)))
    logs = [path.read_text() for path in sorted(folder.glob("slurm-*.log"))]
    assert len(logs) == 2 and "Exited with exit code 143" in logs[1]
    assert "| 2 |" in sweep("--table") and "nothing to run" in sweep("--emit=slurm")
