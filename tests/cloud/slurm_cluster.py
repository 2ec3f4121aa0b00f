"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, as Debian has them."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")

_CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdDebug=debug
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=8000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=8000
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; '' if there can."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"Slurm is not installed ({', '.join(lacking)})"
    return "" if os.geteuid() == 0 else "a Slurm of one's own takes root"


class Cluster:
    """Started by `with`; ends all its jobs and daemons when left."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        for name in ("munge", "state", "n1", "n2"):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder, ports=[free_port() for _ in range(3)]))
        (self.folder / "munge/key").write_bytes(os.urandom(1024))
        (self.folder / "munge/key").chmod(0o400)
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        commands = [
            ["munged", "--force", "--foreground", *(f"--{name}={munge / file}" for name, file in files.items())],
            ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]
        self._daemons = [
            subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            for command in commands]
        self.wait(lambda: self.call("sinfo", "-h", "-o", "%D %t", check=False).strip() == "2 idle", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "--signal=KILL", "--user=root", "--full", check=False)
        self.call("scancel", "--user=root", check=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait()

    def call(self, *command: str, check: bool = True, **more: str) -> str:
        """What a command of Slurm's prints; `more` is added to its environment."""
        done = subprocess.run(command, env={**self.environment, **more}, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str, **more: str) -> str:
        """Number of the new job."""
        return self.call("sbatch", "--parsable", *arguments, **more).strip()

    def state(self, job: str) -> str:
        """Such as RUNNING or PENDING."""
        return self.fact(job, "JobState")

    def fact(self, job: str, name: str) -> str:
        """One of the facts that `scontrol show job` lists."""
        said = self.call("scontrol", "show", "job", job)
        return next(word.partition("=")[2] for word in said.split() if word.startswith(f"{name}="))

    def has_sent(self, signal: str, job: str, nodes: int = 2) -> bool:
        """Whether so many nodes have sent the job's first step a signal: "signal 15", or "SIGKILL signal"."""
        logs = [(self.folder / f"{node}.log").read_text() for node in ("n1", "n2")]
        return sum(f"Sent {signal} to StepId={job}.0" in log for log in logs) == nodes

    def wait(self, happened, seconds: float = 400) -> None:
        """Until `happened()`; fails after so many seconds."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, (self.folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
