"""SIGTERM, SIGINT: saved, code 143 or 130, and the run that goes on is the run that was never stopped."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = [
    "--config=configs/quickstart.py", "--config.iterations=1", "--config.baselines=()", "--config.data.train_size=48",
    "--config.data.eval_size=4", "--config.refine.num_candidates=2", "--config.finetune.batch_size=1",
    *(f"--config.{part}.batch_size=4" for part in ("draft", "refine", "score", "evaluate")),
]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def start(workdir):
    return subprocess.Popen([sys.executable, "-m", "ilf_jax.main", *FLAGS, f"--workdir={workdir}"], cwd=ROOT,
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if p.name != "performance.jsonl"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize("moment", ["iteration_001/score/0*.jsonl", "iteration_001/finetune/steps.jsonl"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ends_with_its_code_and_goes_on(moment, sent, code, whole, tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    end = time.monotonic() + 120
    while not any(path.stat().st_size for path in folder.glob(moment)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    if "finetune" in moment:  # every_steps is 100 here: what is saved was saved for the signal
        (state,) = (folder / "iteration_001/finetune/state").iterdir()
        logged = [json.loads(line)["step"] for line in
                  (folder / "iteration_001/finetune/steps.jsonl").read_text().splitlines()]
        assert logged == list(range(int(state.name)))
        assert f"{sent.name}: saving" in said
    if sent == signal.SIGINT:
        assert said.count("SIGINT") == 1
    process = start(folder)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert records(folder) == records(whole)
