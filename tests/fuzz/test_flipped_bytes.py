"""A byte flipped in any file of a work folder is found, and the file named, or changes nothing that anybody reads.

Each flip is made in a copy of a finished run, or of one that stopped in the middle of a training. Then its report is
read, its model loaded, and the run resumed. More flips, and a table of what became of them by kind of file:
python -m pytest -n 0 tests/fuzz/test_flipped_bytes.py --flips=200
"""

import collections
import dataclasses
import itertools
import json
import pathlib
import random
import re
import shutil

import pytest

import ilf_jax
from ilf_jax import setting_up
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import array_digests, checkpoint, sharding

pytestmark = pytest.mark.usefixtures("quick_compiles")

SEED = 20250301
# Name of a kind -> files. What a run rebuilds (report, metrics, TensorBoard) is among them.
KINDS = {
    "config.json": r"config\.json", "run.json": r"run\.json", "manifest": r".*/manifest\.json",
    "shard": r"iteration_\d+/[a-z_]+/\d{5}-of-\d{5}\.jsonl", "examples": r".*/examples\.jsonl",
    "digest beside a file": r".*\.crc32", "steps.jsonl": r".*/steps\.jsonl", "model.json": r".*/model\.json",
    "params, data": r".*/checkpoint/params/.*/d/.*", "params, metadata": r".*/checkpoint/params/(?!.*/d/).*",
    "training state, data": r".*/state/\d+/.*/d/.*", "training state, metadata": r".*/state/\d+/(?!.*/d/).*",
    "tokenizer": r"(.*/)?tokenizer/.*", "metrics.jsonl": r"metrics\.jsonl", "performance.jsonl": r"performance\.jsonl",
    "report.html": r"report\.html", "TensorBoard": r"tensorboard/.*",
}


def kind_of(path):
    return next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, path))


def files(folder):
    """Path within the folder -> kind, for all files that hold something."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size and p.name != ".lock")
    return {str(p.relative_to(folder)): kind_of(str(p.relative_to(folder))) for p in paths}


class _StopHereError(BaseException):
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(config, folder of a finished run, folder of one that stopped in a training behind two states)."""
    from conftest import make_tiny_config

    config = make_tiny_config()
    config.checkpoint.states = 2
    place = tmp_path_factory.mktemp("runs")
    ilf_jax.run(config, place / "finished")
    original = checkpoint.TrainingCheckpoints.save

    def save(self, step, state, **facts):
        original(self, step, state, **facts)
        if step == 2:
            raise _StopHereError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.TrainingCheckpoints, "save", save)
        with pytest.raises(_StopHereError):
            ilf_jax.run(config, place / "stopped")
    return config, place / "finished", place / "stopped"


def results(folder):
    """What a run leaves that matters, as far as it is the same from run to run."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.jsonl"))
             if p.name != "performance.jsonl"}
    for p in sorted(folder.rglob("manifest.json")):
        manifest = json.loads(p.read_text())
        found[str(p.relative_to(folder))] = {k: manifest.get(k) for k in ("complete", "count", "metrics", "digests")}
    return found, loaded(folder)


def loaded(folder):
    """What others get who take the run's policy: architecture, params, tokens."""
    pool = model_pool.ModelPool(sharding.make_mesh(1, 1, 1), seed=0)
    uri = f"orbax:{folder / 'iteration_001/checkpoint'}"
    tokenizer = pool.tokenizer(f"hf:{folder / 'iteration_001/checkpoint/tokenizer'}")
    return (pool.config(uri), array_digests.of_tree(pool.get(uri)), tokenizer.stop_ids,
            [tokenizer.encode(text) for text in ("You are a moron, and a fool", "  12 é")])


def read_report(folder):
    """What the report shows, without when and how long."""
    work = workfolder.read(folder)
    stages = {(i.number, name): stage.records for i in work.iterations for name, stage in i.stages.items()}
    return (stages, [dataclasses.replace(i, stages={}) for i in work.iterations], work.config, work.metrics,
            work.missing, work.metric_directions)


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def outcome(action, expected, name):
    """"found" or "harmless"; anything else fails."""
    try:
        got = action()
    except InputError as e:
        parts = {part.lstrip(".").removesuffix(".crc32") for part in pathlib.Path(name).parts[-3:]}
        assert any(part in str(e) for part in parts), f"{name} is not named: {e}"
        return "found"
    assert got == expected, f"a flip in {name} has changed what came out"
    return "harmless"


def plan(sources, flips, rng):
    """(Folder, file) of each flip: every kind of file in turn."""
    by_kind = collections.defaultdict(list)
    for folder in sources:
        for path, kind in files(folder).items():
            by_kind[folder, kind].append(path)
    # Of the run that stopped, what the finished one has not, or reads differently.
    turns = [key for key in sorted(by_kind) if key[0] == sources[0] or key[1].startswith("training state")
             or key[1] in ("steps.jsonl", "shard", "manifest", "digest beside a file")]
    rng.shuffle(turns)
    return [(folder, rng.choice(by_kind[folder, kind]))
            for folder, kind in itertools.islice(itertools.cycle(turns), flips)]


def test_flips(runs, tmp_path, capsys, monkeypatch, request):
    config, finished, stopped = runs
    flips = request.config.getoption("--flips")
    expected = {"report": read_report(finished), "load": loaded(finished), "run": results(finished)}
    monkeypatch.setattr(setting_up.Setup, "report", lambda self: self.run.workdir.write_metrics())
    rng, seen = random.Random(SEED), collections.defaultdict(collections.Counter)
    for number, (source, name) in enumerate(plan((finished, stopped), flips, rng)):
        copy = tmp_path / f"{number}"
        shutil.copytree(source, copy)
        flip(copy / name, rng)

        def resume(copy=copy):
            ilf_jax.run(config, copy)
            return results(copy)

        readers = {"report": lambda copy=copy: read_report(copy), "load": lambda copy=copy: loaded(copy),
                   "run": resume}
        for reader in readers if source == finished else ["run"]:
            seen[kind_of(name)][reader, outcome(readers[reader], expected[reader], name)] += 1
        shutil.rmtree(copy)
    if flips > 20:
        with capsys.disabled():
            print(f"\n{flips} flips, seed {SEED}")
            for kind, counts in sorted(seen.items()):
                print(f"{kind:26}", ", ".join(f"{r}: {n} {o}" for (r, o), n in sorted(counts.items())))
    assert sum(n for counts in seen.values() for (r, _), n in counts.items() if r == "run") == flips
