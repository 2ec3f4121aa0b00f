"""Runs with their work folder in a bucket: killed, refused, cut off, in the way of each other; equal to one on a disk.

The long series: python -m pytest -n 0 -s tests/cloud/test_bucket_faults.py --kills=20 --outage=60
"""

import random
import threading
import time

import forked_runs
import object_stores
import pytest
from forked_runs import SMALL

from ilf_jax.runtime import conditional_writes, lease

SEED = 20261128
STAGES = ("draft", "feedback", "refine", "score", "finetune", "evaluate")
REQUESTS = 150
"""Of an undisturbed run, about."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with forked_runs.Runs(tmp_path_factory.mktemp("logs")) as started:
        yield started


@pytest.fixture(scope="module")
def local(runs, tmp_path_factory):
    """Files of the run on a disk, by path."""
    folder = tmp_path_factory.mktemp("local") / "run"
    code, said = runs([*SMALL, f"--workdir={folder}"])
    assert code == 0, said
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def store(request):
    with object_stores.started(request.param, SEED) as started, object_stores.used_here(started):
        yield started


def records(files):
    return {name: data for name, data in files.items() if name.endswith(".jsonl") and "performance" not in name
            and not name.rpartition("/")[2].startswith(".")}


def test_killed_between_requests(runs, store, local, request):
    wanted, rng = request.config.getoption("--kills"), random.Random(f"{SEED} {store.scheme}")
    killed = folders = 0
    while killed < wanted:
        folder, code = f"killed-{folders}", None
        while code != 0:
            kill = forked_runs.KillAt(rng.randint(1, REQUESTS * 2 // 3) if killed < wanted else 10**9)
            with store.proxy.settings(before=kill):
                code, said = runs([*SMALL, f"--workdir={store.uri}/{folder}"], store.environment(), kill.started)
            assert code in (0, -9) and "damaged" not in said, said
            killed += code == -9
        assert records(store.objects(folder)) == records(local)
        folders += 1
    print(f"\n{store.scheme}: {killed} kills of {folders} runs, seed {SEED}: all record files equal")


class Outages:
    """As `before` of a proxy: the store goes away when a run writes into a stage's folder for the first time."""

    def __init__(self, proxy, stages, seconds):
        self._proxy, self._seconds, self.left = proxy, seconds, [f"iteration_001/{stage}/" for stage in stages]

    def __call__(self, request):
        entered = [stage for stage in self.left if stage in request.name]
        if entered and request.kind == "write" and not self._proxy.out:
            self.left.remove(entered[0])
            self._proxy.out = True
            threading.Timer(self._seconds, self._back).start()

    def _back(self):
        self._proxy.out = False


def test_errors_and_outages_are_waited_for(runs, store, local, request):
    seconds = request.config.getoption("--outage")
    outages = Outages(store.proxy, STAGES if seconds >= 60 else ("refine", "finetune"), seconds)
    with store.proxy.settings(failing=0.05, before=outages, out=False):
        code, said = runs([*SMALL, f"--workdir={store.uri}/disturbed"], store.environment())
        count = len(store.proxy.requests)
    assert code == 0 and not outages.left and "Traceback" not in said, said
    assert records(store.objects("disturbed")) == records(local)
    if seconds >= 60:
        assert f"waiting for {store.uri}" in said
    print(f"\n{store.scheme}: 5 % of 503, outages of {seconds:g} s: {count} requests, all record files equal")


def test_a_folder_in_use_ends_a_run_with_75(runs, store):
    folder = f"{store.uri}/in use"
    elsewhere = lease.Holder("0", "Slurm job 7", 0, "node7", "another", 7, 0, "then", "now")
    held = lease.take(folder, lease.Timing(renew=0.1), elsewhere)
    code, said = runs([*SMALL, f"--workdir={folder}"], store.environment())
    held.check()
    held.release()
    assert code == 75 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith(
        f"error: --workdir {folder}: another run is using it: process 7 on node7 (Slurm job 7, attempt 0), since then")
    assert list(store.objects("in use")) == []


def test_a_run_that_lost_its_lease_stops_with_75(runs, store):
    """Another run takes over when the first one begins to refine."""
    uri, folder, taken = f"{store.uri}/lost", "lost", []

    def before(request):
        if "/refine/" in request.name and request.kind == "write" and not taken:
            taken.append("")
            found = conditional_writes.read(f"{uri}/{lease.NAME}")
            other = lease.Holder("0", "", 0, "node7", "another", 7, 0, "then", "now")
            conditional_writes.replace_if_unchanged(f"{uri}/{lease.NAME}", other.content(), found.version)

    with store.proxy.settings(before=before):  # what it renews every fifteen seconds tells the run
        code, said = runs([*SMALL, "--config.iterations=30", f"--workdir={uri}"], store.environment())
        late = [r for r in store.proxy.requests if r.kind == "write" and lease.NAME in r.name][-1]
        after = [r for r in store.proxy.requests if r.kind in ("write", "delete") and r.number > late.number + 32]
    assert code == 75 and "this run no longer holds" in said and "taken by process 7 on node7" in said, said
    assert not after and lease.NAME in store.objects(folder)


def problems(store, name):
    """What is wrong -> flags, environment, missing packages, what the one line says."""
    package, other = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3a")}[store.scheme]
    here, nobody = store.environment(), store.environment("http://127.0.0.1:9")
    return {
        "no such bucket": (f"{store.scheme}://nowhere/run", here, (), "there is no bucket nowhere; make it"),
        "permission denied": (f"{store.uri}/run", here, (), "permission denied"),
        "not signed in": (f"{store.uri}/run", here, (), "credentials are missing or refused"),
        "client package missing": (f"{store.uri}/run", here, (package,), f"pip install {package}"),
        "host not reached": (f"{store.uri}/run", nobody, (), "127.0.0.1:9 cannot be reached"),
        "one slash": (f"{store.scheme}:/bucket/run", here, (), "two slashes follow"),
        "scheme of another name": (f"{other}://bucket/run", here, (), f"write {store.scheme}://bucket/run"),
        "scheme not supported": ("az://bucket/run", here, (), "az:// is not supported; allowed are gs://"),
    }[name]


STATUS = {"permission denied": 403, "not signed in": 401}


@pytest.mark.parametrize("name", ["no such bucket", "permission denied", "not signed in", "client package missing",
                                  "host not reached", "one slash", "scheme of another name", "scheme not supported"])
def test_what_is_wrong_is_one_line(runs, store, name):
    workdir, environment, without, cure = problems(store, name)
    with store.proxy.settings(failing=1.0 if name in STATUS else 0.0, status=STATUS.get(name, 503)):
        start = time.monotonic()
        code, said = runs([*SMALL, f"--workdir={workdir}"], environment, without=without)
        seconds = time.monotonic() - start
    lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and cure in lines[0], said
    print(f"\n{store.scheme}, {name}, {seconds:.1f} s: {lines[0]}")
