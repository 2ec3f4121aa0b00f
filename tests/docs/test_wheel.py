"""README and tutorial without a clone: a bare environment that holds nothing but the wheel, for each --docs_python.

Trainings are dry runs, but for a short one of the quickstart, whose policy the other commands use.
"""

import os
import shutil
import subprocess
import sys
import time

import pytest
from code_blocks import PAGES, ROOT, blocks

_SAMPLE = "ilf_jax/assets/reviews_sample.jsonl"
_ONLY_IN_A_CLONE = ("bash launch/", "source .venv/")
_SHORT = ('ilf-jax run --config=quickstart --workdir=runs/quickstart --config.iterations=1 --config.baselines="()" '
          "--config.data.train_size=16 --config.data.eval_size=8")


def wheel_script(sample):
    """What README and tutorial say, each command once, from top to bottom; `sample` is where the reviews are."""
    lines, seen = ["set -euo pipefail", "ilf-jax --version", _SHORT], set()
    for block in (block for page in PAGES if page.name in ("README.md", "tutorial.md") for block in blocks(page)):
        if block.language == "python" and not block.note:
            lines += [f"echo '== {block}' >&2", f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"]
        if block.language != "bash" or block.note.startswith("not run"):
            continue
        for command in block.text.replace("\\\n", " ").splitlines():
            command = " ".join(command.partition(" #")[0].split()).replace(_SAMPLE, sample)
            waits = block.note.startswith("exit ")
            if command.startswith("ilf-jax run") and "--dry_run" not in command and not waits:
                command += " --dry_run"
            same = frozenset(command.split())
            if not command or same in seen or command.startswith(_ONLY_IN_A_CLONE):
                continue
            seen.add(same)
            lines.append(f"echo {command!r} >&2")
            lines += [f"code=0; {command} || code=$?; [ $code -eq {block.note.removeprefix('exit ')} ]"] if waits else [
                command]
    return "\n".join(lines) + "\n"


def test_the_script_is_what_the_pages_say():
    script = wheel_script("sample.jsonl")
    assert _SAMPLE not in script and "launch/" not in script
    for command in ("ilf-jax generate", "ilf-jax export", "--format=gguf", "ilf_jax.load", "feedback.source=human"):
        assert command in script


def test_readme_and_tutorial_from_a_wheel(request, tmp_path):
    pythons = request.config.getoption("--docs_python")
    if not pythons:
        pytest.skip("run by --docs_python=PYTHON: downloads a gigabyte and takes minutes")
    clone = tmp_path / "clone"  # building writes into the folder
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in filter(None, tracked.split("\0")):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, clone / path)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, clone], check=True)
    (wheel,) = tmp_path.glob("ilf_jax-*.whl")
    for number, python in enumerate(pythons):
        venv, here = tmp_path / f"venv{number}", tmp_path / f"here{number}"
        here.mkdir()
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment["PATH"] = f"{venv}/bin:{environment['PATH']}"
        start = time.perf_counter()
        subprocess.run([python, "-m", "venv", venv], check=True)
        subprocess.run(["pip", "install", "--quiet", wheel], cwd=here, env=environment, check=True)
        print(f"{python}: installed in {time.perf_counter() - start:.0f} s")
        find = f"import ilf_jax, pathlib; print(pathlib.Path(ilf_jax.__file__).parents[1] / '{_SAMPLE}')"
        sample = subprocess.run(["python", "-c", find], cwd=here, env=environment, capture_output=True, text=True,
                                check=True).stdout.strip()
        start = time.perf_counter()
        done = subprocess.run(["bash", "-c", wheel_script(sample)], cwd=here, env=environment, capture_output=True,
                              text=True)
        print(f"{python}: commands took {time.perf_counter() - start:.0f} s\n{done.stdout}\n{done.stderr}")
        assert done.returncode == 0, done.stderr[-3000:]
