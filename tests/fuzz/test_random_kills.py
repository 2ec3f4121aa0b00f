"""Killed at any moment, again and again, a run ends as one that was never killed, and no digest cries wolf.

The moments are drawn from a seed. More of them, with a count of what was lost:
python -m pytest -n 0 tests/fuzz/test_random_kills.py --kills=100
"""

import pathlib
import random
import signal
import time

import pytest
from test_resume import assert_same_params, configs, manifests, records, reference, server

pytestmark = pytest.mark.usefixtures("quick_compiles")
__all__ = ["configs", "reference", "server"]

SEED = 20250302
_IN_A_ROW = 4  # kills of a run before it may end


def test_random_kills(server, configs, reference, tmp_path, capsys, request):
    wanted, rng = request.config.getoption("--kills"), random.Random(SEED)
    config, (folder, _) = configs["loop"], reference("loop")

    def job(name, **more):
        return {"config": config, "workdir": str(tmp_path / name), "stage": "", "iteration": 0, "log": server.log(),
                **more}

    start = time.monotonic()
    assert server([[job("timed")]]) == [[0]]
    seconds = time.monotonic() - start  # with the programs compiled, as in what follows
    killed = runs = 0
    while killed < wanted:
        names = [f"run-{runs + i}" for i in range(2)]
        chains = [[*(job(name, kill_after=rng.uniform(0.0, seconds / 2)) for _ in range(_IN_A_ROW)), job(name)]
                  for name in names]
        for name, chain, codes in zip(names, chains, server(chains), strict=True):
            said = [pathlib.Path(one["log"] + ".stderr").read_text() for one in chain]
            assert codes[-1] == 0 and set(codes) <= {0, -signal.SIGKILL}, said[-1]
            assert not any("is damaged" in text for text in said), "a false alarm"
            assert records(tmp_path / name) == records(folder)
            assert manifests(tmp_path / name) == manifests(folder)
            for k in (1, 2):
                assert_same_params(tmp_path / f"{name}/iteration_{k:03d}/checkpoint",
                                   folder / f"iteration_{k:03d}/checkpoint")
            killed += codes.count(-signal.SIGKILL)
            runs += 1
    with capsys.disabled():
        if wanted > 3:
            print(f"\n{killed} kills of {runs} runs, seed {SEED}: nothing lost, no false alarm")
