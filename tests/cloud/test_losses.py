"""One of several processes is lost or stopped, anywhere: the others say which and end, and another number of them
goes on, with equal records.

The losses are drawn from a seed. More of them, with their times:
python -m pytest -n 0 tests/cloud/test_losses.py --losses=40
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import object_stores
import pytest
from conftest import make_tiny_config

ROOT = pathlib.Path(__file__).parents[2]
SEED = 20261128
_PATIENCE = 15.0
_STRIDE = 12  # examples in a batch: as many for each of 2, 3 or 4 processes
_CONFIG = """
import json
from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.update(json.loads({!r}))
    return c
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    c = make_tiny_config()
    c.data.train_size, c.data.eval_size = 24, 12
    for section in (c.draft, c.feedback, c.refine, c.score, c.evaluate, c.finetune):
        section.batch_size = _STRIDE
    path = tmp_path_factory.mktemp("losses") / "config_of_test.py"
    path.write_text(_CONFIG.format(c.to_json()))
    return path


class Run:
    """Processes of one run, and what they say on stderr."""

    def __init__(self, config, workdir, count, environment, logs):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{s.getsockname()[1]}"
        self.logs = [logs.with_name(f"{logs.name}.{i}.log") for i in range(count)]
        self.processes = []
        for i, log in enumerate(self.logs):
            several = [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={i}",
                       f"--heartbeat_timeout={_PATIENCE}"]
            with log.open("w") as f:
                self.processes.append(subprocess.Popen(
                    [sys.executable, "-m", "ilf_jax.main", f"--config={config}", f"--workdir={workdir}",
                     *(several if count > 1 else [])], cwd=ROOT, env={**os.environ, **environment}, stdout=f, stderr=f))

    def said(self):
        return [log.read_text(errors="replace") for log in self.logs]

    def codes(self):
        return [process.wait(timeout=900) for process in self.processes]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


class Disk:
    """Where runs are."""

    def __init__(self, folder):
        self._folder, self.environment = folder, {}

    def workdir(self, run):
        return str(self._folder / run)

    def names(self, run):
        """Of all files of JSON that a run has written."""
        folder = self._folder / run
        with contextlib.suppress(FileNotFoundError):  # it is not there yet, or being written to
            return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in (".json", ".jsonl")]
        return []

    def records(self, run):
        return {name: (self._folder / run / name).read_bytes() for name in self.names(run) if is_record(name)}


class Bucket:
    """The same in an object store."""

    def __init__(self, store):
        self._store, self.environment = store, store.environment()

    def workdir(self, run):
        return f"{self._store.uri}/{run}"

    def names(self, run):
        return [name for name in self._store.names(run) if name.endswith((".json", ".jsonl"))]

    def records(self, run):
        return {name: data for name, data in self._store.objects(run).items() if is_record(name)}


def is_record(name):
    return name.endswith(".jsonl") and not name.endswith("performance.jsonl")


def assert_equal(found, expected):
    """The same files with the same lines; numbers up to what sums over another number of devices are rounded by."""
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        lines = [[json.loads(line) for line in data.splitlines()] for data in (found[name], content)]
        assert_near(*lines, name)


def assert_near(found, expected, where):
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_near(found[key], value, f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_near(found[i], value, f"{where}[{i}]")
    else:
        assert found == expected, where


@pytest.fixture(params=["disk", *object_stores.SCHEMES])
def place(request, tmp_path):
    if request.param == "disk":
        yield Disk(tmp_path)
        return
    if request.config.getoption("--losses") <= 2:
        pytest.skip("on a bucket by --losses=N above 2")
    with object_stores.started(request.param) as store:
        yield Bucket(store)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """Records of a run by one process, and how many files it writes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    disk = Disk(folder)
    with Run(config, disk.workdir("run"), 1, ENVIRONMENT, folder / "run") as run:
        assert run.codes() == [0], run.said()
    return disk.records("run"), len(disk.names("run"))


ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.mark.parametrize("scheme", object_stores.SCHEMES)
def test_two_processes_in_a_bucket(scheme, config, undisturbed, tmp_path):
    with object_stores.started(scheme) as store:
        place = Bucket(store)
        with Run(config, place.workdir("run"), 2, {**ENVIRONMENT, **place.environment}, tmp_path / "run") as run:
            assert run.codes() == [0, 0], run.said()
        assert_equal(place.records("run"), undisturbed[0])


def test_losses(config, place, undisturbed, tmp_path, capsys, request):
    wanted, rng = request.config.getoption("--losses"), random.Random(SEED)
    expected, files = undisturbed
    environment, rows = {**ENVIRONMENT, **place.environment}, []
    for n in range(wanted):
        count = rng.choice((2, 3, 4))
        victim, how = rng.randrange(count), (signal.SIGKILL, signal.SIGSTOP)[n % 2]
        when, then = rng.randrange(1, files * 3 // 4), rng.choice([c for c in (1, 2, 3, 4) if c != count])
        name = f"run-{n}"
        with Run(config, place.workdir(name), count, environment, tmp_path / f"lost-{n}") as run:
            seconds = lose(run, lambda name=name: len(place.names(name)), victim, how, when)
            for i, (code, said) in enumerate(zip(run.codes(), run.said(), strict=True)):
                case = f"loss {n}: {how.name} of {victim} of {count} at file {when}; process {i}: {code}\n{said}"
                if i == victim and how == signal.SIGKILL:
                    assert code == -signal.SIGKILL, case
                    continue
                assert code == 75 and "Traceback" not in said and said.count("error: ") == 1, case
                if i != victim:
                    outcome = "is gone" if how == signal.SIGKILL else f"was silent for {_PATIENCE:g} s"
                    assert f"process {victim} of {count} on {socket.gethostname()} {outcome};" in said, case
        with Run(config, place.workdir(name), then, environment, tmp_path / f"resumed-{n}") as run:
            assert run.codes() == [0] * then, run.said()
        assert_equal(place.records(name), expected)
        rows.append((how.name, count, then, seconds))
        if wanted > 2:
            with capsys.disabled():
                print(f"loss {n}: {how.name} of {victim} of {count} at file {when}: {seconds:.1f} s; resumed by {then}")
    if wanted > 2:
        with capsys.disabled():
            report(rows, type(place).__name__)


def lose(run, count_files, victim, how, when):
    """Signals a process once so many files are there, and waits for the others. Seconds until the last has ended."""
    end = time.monotonic() + 900
    while count_files() < when:
        assert time.monotonic() < end and run.processes[0].poll() is None, run.said()
        time.sleep(0.02)
    start = time.monotonic()
    run.processes[victim].send_signal(how)
    for i, process in enumerate(run.processes):
        if i != victim:
            process.wait(timeout=900)
    seconds = time.monotonic() - start
    run.processes[victim].send_signal(signal.SIGCONT)
    return seconds


def report(rows, where):
    print(f"\n{len(rows)} losses ({where}), seed {SEED}, patience {_PATIENCE:g} s; records that differ: 0")
    for how in ("SIGKILL", "SIGSTOP"):
        seconds = sorted(row[3] for row in rows if row[0] == how)
        print(f"{how}: {len(seconds)} losses, the others ended after {seconds[0]:.1f} to {seconds[-1]:.1f} s, median "
              f"{seconds[len(seconds) // 2]:.1f}")
