"""Property 4: a run that was killed, anywhere, and started again leaves what a run that was never killed leaves.

The kills are exact. A process that has imported everything, but started no jax backend, forks a child for each run; the
child counts the writes inside one stage (fsync, rename, mkdir, unlink, appended line, ...) and sends itself SIGKILL
before or after the n-th took effect, halfway through it where it is an append. The suite kills three times in each
stage, at the kinds of write at which it has killed least often. Every kind in every stage, and some spread over all of
a stage's writes: python -m pytest tests/test_resume.py --write_kills=15
"""

import builtins
import collections
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import traceback

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quick_compiles")

STAGES = ("draft", "feedback", "refine", "score", "finetune", "evaluate")
ORDER = ("reward", *STAGES, "best_of_n", "rank")  # in an iteration
# Stage, iteration, which run (see `configs`).
KILLED = (*((stage, 2, "loop") for stage in STAGES),
          ("reward", 0, "rewarded"), ("best_of_n", 1, "rewarded"), ("rank", 1, "rewarded"))
KILLED_ONCE_AT = 41  # a point, as `_Writes` counts them: the first train steps are behind it
SEED = 20240601
_CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


class _Writes:
    """Counts the writes that happen while `stage` of `iteration` runs ("": all stages), and kills at one of them.

    Point 2 n is before the n-th write, 2 n + 1 behind it.
    """

    def __init__(self, workdir, stage, iteration, kill_at=None):
        self._workdir = os.path.realpath(workdir)
        self._wanted, self._kill_at, self._lock = (stage, iteration), kill_at, threading.Lock()
        self.count, self.active, self.names = 0, False, []

    def entered(self, stage, iteration):
        self.active = self._wanted[0] == "" or self._wanted == (stage, iteration)

    def _point(self, half):
        if self._kill_at is not None and 2 * self.count + half == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name, call, torn=None):
        if not self.active:
            return call()
        with self._lock:
            self._point(0)
            if torn is not None and self._kill_at == 2 * self.count + 1:
                torn()
            result = call()  # one that raises (a folder that is there already) changes nothing, and does not count
            self.names.append(name)
            self._point(1)
            self.count += 1
        return result

    def install(self):
        for name in _CALLS:
            setattr(os, name, functools.partial(self._os_call, name, getattr(os, name)))
        opened = pathlib.Path.open
        written = pathlib.Path.write_text

        def open_(path, mode="r", *args, **kwargs):
            file = opened(path, mode, *args, **kwargs)
            return _Append(file, self) if mode.startswith("a") and self.active and self._inside(path) else file

        def write_text(path, text, *args, **kwargs):
            if not self._inside(path):
                return written(path, text, *args, **kwargs)
            return self.around("write_text", lambda: written(path, text, *args, **kwargs),
                               lambda: written(path, text[: len(text) // 2], *args, **kwargs))

        pathlib.Path.open, pathlib.Path.write_text = open_, write_text

    def _inside(self, target, dir_fd=None):
        """Whether a path or an open file is the run's; what jax writes into its compilation cache does not count."""
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.abspath(path).startswith(self._workdir)

    def _os_call(self, name, original, *args, **kwargs):
        if not self.active or not self._inside(args[0], kwargs.get("dir_fd") or kwargs.get("src_dir_fd")):
            return original(*args, **kwargs)
        return self.around(name, lambda: original(*args, **kwargs))


class _Append:
    def __init__(self, file, writes):
        self._file, self._writes = file, writes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, text):
        def torn():
            self._file.write(text[: len(text) // 2])
            self._file.flush()

        def whole():
            self._file.write(text)
            self._file.flush()

        return self._writes.around("append", whole, torn)


class _StopHereError(SystemExit):
    pass


def _run(job):
    """A run in this (forked) process: killed at a write, or stopped where the stage behind `stop_after` begins."""
    from ilf_jax import ilf
    from ilf_jax.reporting import tensorboard_files

    if "kill_after" in job:
        alarm = threading.Timer(job["kill_after"], os.kill, (os.getpid(), signal.SIGKILL))
        alarm.daemon = True
        alarm.start()
    writes = _Writes(job["workdir"], job["stage"], job["iteration"], job.get("kill_at"))
    writes.install()
    past = False

    def enter(stage, iteration):
        nonlocal past
        if past:
            raise _StopHereError
        writes.entered(stage, iteration)
        past = job.get("stop_after") and (stage, iteration) == (job["stage"], job["iteration"])

    def around(stage, original):
        def wrapped(context, *args):
            wanted = stage != "best_of_n" or context.config.evaluate.best_of_n > 1
            if wanted and not context.folder(stage).complete:
                enter(stage, context.iteration)
            return original(context, *args)
        return wrapped

    calls = {"feedback": "give_feedback", "reward": "train_reward_model"}
    for stage in ORDER:
        name = calls.get(stage, stage)
        setattr(ilf, name, around(stage, getattr(ilf, name)))
    if job.get("stop_after"):
        tensorboard_files.rewrite = lambda *args: enter("end", 0)
        if job["done_already"]:
            past = True  # the kill came when the stage was complete: nothing of it may run again
    with contextlib.suppress(_StopHereError):
        ilf.run(job["config"], job["workdir"])
    writes.active = False
    pathlib.Path(job["log"]).write_text(json.dumps({"count": writes.count, "names": writes.names}))


def _serve():
    """Reads lists of chains of jobs, one a line; runs two chains at once, each job in a child; answers exit codes."""
    import ilf_jax.ilf
    import ilf_jax.reporting.plots  # noqa: F401

    for line in sys.stdin:
        chains = [list(chain) for chain in json.loads(line)]
        codes, running = [[] for _ in chains], {}
        waiting = list(range(len(chains)))
        while waiting or running:
            while waiting and len(running) < 2:
                at = waiting.pop(0)
                running[_fork(chains[at].pop(0))] = at
            child, status = os.wait()
            at = running.pop(child)
            codes[at].append(os.waitstatus_to_exitcode(status))
            if chains[at]:
                waiting.insert(0, at)
        print(json.dumps(codes), flush=True)


def _fork(job):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with builtins.open(job["log"] + ".stderr", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        stage = pathlib.Path(job["workdir"]) / f"iteration_{job['iteration']:03d}" / (job["stage"] or "none")
        manifest = stage / "manifest.json"
        job["done_already"] = manifest.exists() and json.loads(manifest.read_text())["complete"]
        pathlib.Path(job["log"] + ".done").write_text(json.dumps(job["done_already"]))
        # What is there when a run begins, for the tests to see what it left alone.
        found = {str(p): [p.stat().st_mtime_ns, p.stat().st_ino] for p in stage.glob("[0-9]*.jsonl")}
        pathlib.Path(job["log"] + ".found").write_text(json.dumps(found))
        _run(job)
        code = 0
    except BaseException:
        with builtins.open(job["log"] + ".stderr", "a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(code)


class Server:
    """The other end of `_serve`."""

    def __init__(self, folder):
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        env["PYTHONPATH"] = str(pathlib.Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._folder, self._logs = folder, 0

    def log(self):
        self._logs += 1
        return str(self._folder / f"log-{self._logs:04d}")

    def __call__(self, chains):
        self._process.stdin.write(json.dumps(chains) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def configs():
    """Two iterations of the loop; and a reward model with all that it is used for."""
    from conftest import make_tiny_config
    from test_reward import with_reward

    loop, rewarded = make_tiny_config(), with_reward(make_tiny_config(), "scalar")
    loop.iterations = 2
    loop.feedback.source = "critic"  # the oracle writes one shard only
    for training in (loop.finetune, rewarded.reward):
        training.dev_fraction, training.epochs, training.patience = 0.3, 2, 2
    rewarded.evaluate.rank = True
    return {name: json.loads(c.to_json()) for name, c in (("loop", loop), ("rewarded", rewarded))}


@pytest.fixture(scope="module")
def reference(server, configs, tmp_path_factory):
    """By name: the folder of a run that was never killed, and how many writes it made in all."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp("reference") / name
        log = server.log()
        codes = server([[{"config": configs[name], "workdir": str(folder), "stage": "", "iteration": 0, "log": log}]])
        assert codes == [[0]], pathlib.Path(log + ".stderr").read_text()
        return folder, json.loads(pathlib.Path(log).read_text())["count"]

    return run


def before_stage(reference, stage, iteration, target):
    """A copy of the reference run as it was before a stage of its last iteration, or of iteration 0, began."""
    shutil.copytree(reference, target)
    here = target / f"iteration_{iteration:03d}"
    gone = [here / name for name in ORDER[ORDER.index(stage):]]
    if ORDER.index(stage) < ORDER.index("evaluate"):
        gone += [here / "checkpoint", here / "reward_model", *target.glob(f"iteration_{iteration + 1:03d}")]
    for folder in (*gone, target / "tensorboard"):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("report.html", "metrics.jsonl"):
        (target / name).unlink()
    return target


def records(folder):
    """All records of a run: path -> bytes, hidden (temporary) files apart."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if not any(part.startswith(".") for part in p.relative_to(folder).parts) and p.name != "performance.jsonl"}


def manifests(folder):
    """All manifests of a run, less what they cost."""
    found = {str(p.relative_to(folder)): json.loads(p.read_text()) for p in folder.rglob("manifest.json")}
    return {name: {k: v for k, v in content.items() if k not in ("cost", "finished", "crc32_of_the_rest")}
            for name, content in found.items()}


def params(folder):
    """The params of a model checkpoint, by path."""
    import jax

    from ilf_jax.models import checkpoint_io, transformer
    from ilf_jax.runtime import checkpoint

    shapes = transformer.param_shapes(checkpoint_io.read_config(f"orbax:{folder}"))
    loaded = checkpoint.load_model(folder, shapes)
    return {jax.tree_util.keystr(path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(loaded)[0]}


def assert_same_params(folder, other):
    ours, theirs = params(folder), params(other)
    assert ours.keys() == theirs.keys() and ours
    for name, leaf in ours.items():
        assert leaf.tobytes() == theirs[name].tobytes(), f"{name} differs"


def assert_each_step_once(folder):
    steps = [json.loads(line)["step"] for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps))) and steps


def kill_points(stage, names, kills):
    """Points before and behind the writes `names`: one of a kind, and as many as make `kills` spread over all."""
    points, rng = 2 * len(names), random.Random(f"{SEED} {stage}")
    kinds = {name: [2 * n + half for n, found in enumerate(names) if found == name for half in (0, 1)]
             for name in sorted(set(names), key=lambda name: (_killed_at[name], name))[:kills]}
    _killed_at.update([*kinds])
    kills = min(kills, points)
    spread = [rng.randrange(points * i // kills, points * (i + 1) // kills) for i in range(kills)]
    rng.shuffle(spread)
    picked = [rng.choice([k for k in found if k % 2] if name in ("append", "write_text") else found)
              for name, found in kinds.items()]
    found = sorted(list(dict.fromkeys([*picked, *spread]))[:kills])
    at = [f"{'behind' if k % 2 else 'before'} {names[k // 2]} {k // 2}" for k in found]
    print(f"{stage}: {points} points, seed {SEED}, killed at {len(found)}: {', '.join(at)}")
    assert len(found) == kills
    return found


_killed_at = collections.Counter()  # kind of write -> stages in which a kill came at one


@pytest.mark.parametrize(("stage", "iteration", "name"), KILLED)
def test_killed_in_a_stage(stage, iteration, name, server, configs, reference, tmp_path, request):
    folder = reference(name)[0]

    def job(workdir, **more):
        return {"config": configs[name], "workdir": str(workdir), "stage": stage, "iteration": iteration,
                "log": server.log(), **more}

    count_job = job(before_stage(folder, stage, iteration, tmp_path / "count"), stop_after=True)
    assert server([[count_job]]) == [[0]], pathlib.Path(count_job["log"] + ".stderr").read_text()
    points = kill_points(stage, json.loads(pathlib.Path(count_job["log"]).read_text())["names"],
                         request.config.getoption("--write_kills"))

    chains = []
    for k in points:
        workdir = before_stage(folder, stage, iteration, tmp_path / f"kill-{k}")
        chains.append([job(workdir, kill_at=k, stop_after=True), job(workdir, stop_after=True)])
    codes = server(chains)
    trained = {"finetune": "checkpoint", "reward": "reward_model"}.get(stage)
    assert sum(found[0] == -signal.SIGKILL for found in codes) >= len(points) - 1, codes
    for k, (killed, resumed), found in zip(points, chains, codes, strict=True):
        where = f"{stage}, point {k}"
        if found[0] == 0:  # Orbax writes, and we delete, a file more or less each time: this run had ended before
            assert 2 * json.loads(pathlib.Path(killed["log"]).read_text())["count"] <= k, where
        else:
            assert found[0] == -signal.SIGKILL, where
        assert found[1] == 0, (where, pathlib.Path(resumed["log"] + ".stderr").read_text())
        ours = pathlib.Path(resumed["workdir"])
        here = f"iteration_{iteration:03d}"
        relative = f"{here}/{stage}"
        assert records(ours / relative) == records(folder / relative), where
        assert manifests(ours / relative) == manifests(folder / relative), where
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        done = [row for row in rows if (r := json.loads(row))["iteration"] < iteration
                or (r["iteration"] == iteration and ORDER.index(r["stage"]) <= ORDER.index(stage))]
        if not json.loads(pathlib.Path(resumed["log"] + ".done").read_text()):  # else written with the next stage's
            assert (ours / "metrics.jsonl").read_text().splitlines() == done, where
        if trained:
            assert_same_params(ours / here / trained, folder / here / trained)
            assert_each_step_once(ours / relative)
            assert not (ours / relative / "state").exists() or json.loads(
                pathlib.Path(resumed["log"] + ".done").read_text()), where
            assert not [p for p in (ours / here / trained).rglob("*") if "tmp" in p.name], where
        else:
            left = json.loads(pathlib.Path(resumed["log"] + ".found").read_text())
            for path, facts in left.items():
                stat = os.stat(path)
                assert [stat.st_mtime_ns, stat.st_ino] == facts, f"{where}: {path} was done again"


@pytest.mark.fast
def test_killed_once_in_training(server, configs, reference, tmp_path):
    """The kill in the fast part of the suite: training is under way, and has written a step."""
    folder = reference("loop")[0]
    workdir = before_stage(folder, "finetune", 2, tmp_path / "run")
    job = {"config": configs["loop"], "workdir": str(workdir), "stage": "finetune", "iteration": 2, "stop_after": True}
    killed, resumed = ({**job, "log": server.log(), **more} for more in ({"kill_at": KILLED_ONCE_AT}, {}))
    (codes,) = server([[killed, resumed]])
    assert codes == [-signal.SIGKILL, 0], pathlib.Path(resumed["log"] + ".stderr").read_text()
    assert not json.loads(pathlib.Path(resumed["log"] + ".done").read_text())
    here = "iteration_002/finetune"
    assert records(workdir / here) == records(folder / here)
    assert manifests(workdir / here) == manifests(folder / here)
    assert_same_params(workdir / "iteration_002/checkpoint", folder / "iteration_002/checkpoint")
    assert_each_step_once(workdir / here)


def test_killed_again_and_again(server, configs, reference, tmp_path):
    """From nothing to the report through eight kills anywhere, each start going on from the last."""
    config, (folder, count) = configs["loop"], reference("loop")
    rng = random.Random(SEED)
    kills = [rng.randrange(count // 4) for _ in range(8)]
    print(f"{count} writes in all, seed {SEED}, killed behind so many points: {kills}")
    jobs = [{"config": config, "workdir": str(tmp_path / "run"), "stage": "", "iteration": 0, "log": server.log(),
             "kill_at": k} for k in kills]
    jobs.append({"config": config, "workdir": str(tmp_path / "run"), "stage": "", "iteration": 0, "log": server.log()})
    (codes,) = server([jobs])
    assert codes.count(-signal.SIGKILL) >= 5, codes
    assert codes[-1] == 0 and set(codes) <= {0, -signal.SIGKILL}, pathlib.Path(jobs[-1]["log"] + ".stderr").read_text()
    assert records(tmp_path / "run") == records(folder)
    assert manifests(tmp_path / "run") == manifests(folder)
    for k in (1, 2):
        assert_same_params(tmp_path / f"run/iteration_{k:03d}/checkpoint", folder / f"iteration_{k:03d}/checkpoint")
        assert_each_step_once(tmp_path / f"run/iteration_{k:03d}/finetune")
        assert not (tmp_path / f"run/iteration_{k:03d}/finetune/state").exists()
    assert not [p for p in (tmp_path / "run").rglob("*") if "tmp" in p.name]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    names = [(r["iteration"], r["stage"], r["metric"]) for r in rows]
    assert len(names) == len(set(names))
    assert (tmp_path / "run/report.html").stat().st_size > 1000


def snapshot(folder):
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def finished(tiny_run, tmp_path):
    """(config, folder) of a finished run of two iterations, a copy to do as one likes with."""
    config, folder, _ = tiny_run
    shutil.copytree(folder, tmp_path / "run")
    return config.copy_and_resolve_references(), tmp_path / "run"


def test_a_finished_run_does_nothing_again(finished):
    import ilf_jax

    config, folder = finished
    before = snapshot(folder)
    metrics = ilf_jax.run(config, folder)
    after = snapshot(folder)
    for path in before:
        if "/iteration_" in path:
            assert after[path] == before[path], path
    assert after.keys() - before.keys() == set() or all("/tensorboard/" in p for p in after.keys() - before.keys())
    assert metrics == [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (folder / "metrics.jsonl").read_bytes() == before[str(folder / "metrics.jsonl")][0]


def test_another_config_is_refused_and_shown(finished, capsys):
    from conftest import run_main

    config, folder = finished
    before = snapshot(folder)
    config.refine.num_candidates, config.finetune.learning_rate = 3, 0.5
    code, error = run_main(config, folder, capsys)
    assert code == 2
    assert "config.refine.num_candidates: 2 -> 3" in error and "config.finetune.learning_rate: 0.001 -> 0.5" in error
    assert error.count("->") == 2
    assert snapshot(folder) == before


def test_fewer_iterations_are_refused(finished, capsys):
    from conftest import run_main

    config, folder = finished
    before = snapshot(folder)
    config.iterations = 1
    code, error = run_main(config, folder, capsys)
    assert (code, "config.iterations: 2 -> 1" in error) == (2, True)
    assert snapshot(folder) == before


@pytest.mark.parametrize("held_out", ["another source", "the same source"])
def test_more_iterations_go_on(tiny_config, tiny_run, tmp_path, held_out):
    """One iteration, then two, is two at once; also where held-out documents come from the training source."""
    import ilf_jax

    config = tiny_config
    if held_out == "the same source":
        config.data.source, config.data.eval_source = "builtin:word_removal:30", None
    config.policy.tokenizer = f"hf:{tiny_run[1] / 'tokenizer'}"  # a trained one would have seen both iterations' texts
    config.iterations = 2
    # Not `tiny_run`: other tests may have made it, with programs compiled otherwise, which may differ in the last bits.
    at_once = tmp_path / "at once"
    ilf_jax.run(config, at_once)
    config.iterations = 1
    ilf_jax.run(config, tmp_path / "run")
    first = {p: c for p, c in snapshot(tmp_path / "run").items() if "/iteration_" in p}
    config.iterations = 2
    ilf_jax.run(config, tmp_path / "run")
    after = snapshot(tmp_path / "run")
    assert {p: after[p] for p in first} == first
    assert records(tmp_path / "run") == records(at_once)
    assert_same_params(tmp_path / "run/iteration_002/checkpoint", at_once / "iteration_002/checkpoint")


def test_a_folder_in_use_is_refused(finished, capsys):
    from conftest import run_main

    config, folder = finished
    program = ("import fcntl, sys\nf = open(sys.argv[1], 'a+')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
               "print('locked', flush=True)\nsys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", program, str(folder / ".lock")], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        before = snapshot(folder)
        code, error = run_main(config, folder, capsys)
        assert (code, "another process is using it" in error) == (2, True)
        assert snapshot(folder) == before
    finally:
        holder.communicate("")
    with (folder / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock went with its process


if __name__ == "__main__":
    _serve()
