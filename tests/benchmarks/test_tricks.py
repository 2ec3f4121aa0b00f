"""Each device trick still changes what it claims to change, and its gain comes with an interval."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import tricks  # noqa: E402


def test_kept_barriers_are_what_makes_rematerialisation_save_memory():
    shape = tricks.Shape(64, 4, 4, 65)
    ours, plain = tricks._programs("kept_barriers_remat", shape)
    assert ours.temporary < 0.8 * plain.temporary


def test_ratio_and_interval_against_scipy():
    rng = np.random.default_rng(0)
    with_s, without_s = rng.uniform(1, 2, 9), rng.uniform(1, 2, 9)
    logs = np.log(without_s / with_s)
    low, high = scipy.stats.t.interval(0.95, 8, logs.mean(), scipy.stats.sem(logs))
    found = tricks.ratio(with_s, without_s)
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx(np.exp([np.median(logs), low, high]))


def test_program(tmp_path):
    done = subprocess.run([sys.executable, "benchmarks/tricks.py", "kept_barriers", "freeze_imports", "--quick",
                           "--pairs=2", f"--json={tmp_path / 'out.json'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[2:]] == ["kept_barriers", "freeze_imports"]
    results = json.loads((tmp_path / "out.json").read_text())
    assert all(len(r["with_s"]) == len(r["without_s"]) == 2 and r["low"] <= r["high"] for r in results)
    wrong = subprocess.run([sys.executable, "benchmarks/tricks.py", "clip"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "unknown: clip" in wrong.stderr
