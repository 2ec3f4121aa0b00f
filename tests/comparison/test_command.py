"""ilf_jax.compare on a finished run: lists, exports for people and reads back, and asks a judge."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ilf_jax.runtime.files import write_lines


def compare(*given):
    """(exit code, stdout, stderr) of `python -m ilf_jax.compare`, in a process of its own: it has flags of its own."""
    done = subprocess.run([sys.executable, "-m", "ilf_jax.compare", *given], capture_output=True, text=True,
                          env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"})
    return done.returncode, done.stdout, done.stderr


def test_lists_exports_and_reads(tiny_run, tmp_path):
    folder, path = tiny_run[1], tmp_path / "pairs.jsonl"
    assert compare(f"--workdir={folder}")[:2] == (0, "before_training\nrefinement\n")
    pair = (f"--workdir={folder}", "--systems=before_training,refinement")
    code, out, _ = compare(*pair, f"--export={path}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert code == 0 and f"{len(lines)} pairs" in out and 0 < len(lines) <= 4
    path.write_text("".join(json.dumps({**line, "better": "tie"}) + "\n" for line in lines))
    code, out, _ = compare(*pair, f"--read={path}")
    assert code == 0 and "0.500" in out


def test_a_baseline_with_the_same_target_is_a_system_of_its_own(tiny_run, tmp_path):
    """A shuffled control, say, imitates refinements as the run does."""
    folder = shutil.copytree(tiny_run[1], tmp_path / "run")
    shutil.copytree(tiny_run[1], folder / "baselines" / "shuffled")
    assert compare(f"--workdir={folder}")[:2] == (0, "before_training\nrefinement\nshuffled\n")


def test_a_judge_says_the_same_when_asked_again(tiny_run, tmp_path):
    given = (f"--workdir={tiny_run[1]}", "--systems=refinement,before_training", "--judge=builtin:word_removal_1m",
             f"--out={tmp_path / 'judged'}")
    code, out, err = compare(*given)
    assert code == 0, err
    assert "refinement" in out and (tmp_path / "judged/metrics.jsonl").exists()
    assert compare(*given)[1] == out


@pytest.mark.parametrize(("given", "message"), [
    ((), "--workdir=DIR is needed"), (("--systems=refinement", "--export=x"), "name two or more of before_training"),
    (("--systems=refinement,nobody", "--export=x"), "there is no 'nobody'"),
    (("--systems=refinement,before_training", "--judge=init:tiny"), "--out=DIR"),
    (("--systems=refinement,before_training", "--read=nowhere.jsonl"), "no such file"),
])
def test_bad_input(tiny_run, given, message):
    workdir = (f"--workdir={tiny_run[1]}",) if given else ()
    code, _, err = compare(*workdir, *given)
    assert code == 2 and message in err


def test_runs_with_other_documents_cannot_be_compared(tiny_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run[1], other)
    for path in other.rglob("evaluate/examples.jsonl"):
        write_lines(path, path.read_text().replace("the", "a"))
    code, _, err = compare(f"--workdir={tiny_run[1]}", f"--workdir={other}")
    assert code == 2 and "other documents" in err
