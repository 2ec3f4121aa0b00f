"""Each device trick still changes what it claims to change, and its gain comes with an interval."""

import json
import pathlib
import sys

import numpy as np
import pytest
import scipy.stats

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import tricks  # noqa: E402


@pytest.mark.usefixtures("optimised")
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


def test_program(tmp_path, capsys):
    """In this process, but for a trick that is measured in processes of its own: one with it, one without."""
    for name, pairs in (("kept_barriers", 2), ("freeze_imports", 1)):
        path = tmp_path / f"{name}.json"
        assert tricks.main([name, "--quick", f"--pairs={pairs}", f"--json={path}"]) == 0
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == [name]
        (result,) = json.loads(path.read_text())
        assert len(result["with_s"]) == len(result["without_s"]) == pairs
        assert pairs == 1 or result["low"] <= result["high"]
    with pytest.raises(SystemExit) as wrong:
        tricks.main(["clip"])
    assert wrong.value.code == 2 and "unknown: clip" in capsys.readouterr().err
