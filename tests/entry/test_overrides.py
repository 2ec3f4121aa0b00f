"""Flags --config.KEY=VALUE: what unsets a key, what they say, and the help of `run`."""

import json
import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax.entry import early_checks, overrides
from ilf_jax.errors import InputError

_FLAGS = ("--config.data.train_size=None", "--config.data.join=None", "--config.baselines=None",
          "--config.refine.max_logprob_gap_mean=3", "--config.refine.max_logprob_gap_mean=None",
          "--config.reward.train_size=None", "--config.reward.train_size=7")


def test_none_unsets_and_the_last_flag_of_a_key_decides():
    argv, unset = overrides.split_unset(["main", "--config=quickstart", *_FLAGS, "--workdir=None"])
    assert set(unset) == {"data.train_size", "data.join", "refine.max_logprob_gap_mean", "baselines"}
    assert argv == ["main", "--config=quickstart", "--config.reward.train_size=7", "--workdir=None"]


def test_a_run_is_given_what_none_has_unset():
    program = ("import json, sys\nfrom ilf_jax import config, main\nmain.parse_flags(sys.argv)\n"
               "c = config.flat(config.read(main._CONFIG.value))\n"
               "print(json.dumps([c['data.train_size'], c['data.join'], c['baselines'], c['reward.train_size']]))")
    given = [sys.executable, "-c", program, "--config=quickstart", *_FLAGS]
    done = subprocess.run(given, capture_output=True, text=True)
    assert json.loads(done.stdout) == [None, None, {}, 7], done.stderr


@pytest.mark.fast
@pytest.mark.parametrize(("key", "said"), [
    ("iterations", "config.iterations: None given, but it must be set: a whole number"),
    ("refine.redraw", "config.refine.redraw: None given, but it must be set: true or false"),
])
def test_what_must_be_set_cannot_be_unset(key, said):
    with pytest.raises(InputError, match=said):
        overrides.split_unset(["main", f"--config.{key}=None"])


def test_help_explains_and_lists_the_sections():
    done = subprocess.run([sys.executable, "-m", "ilf_jax.main", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    for part in ("--workdir", "--topology", "  finetune ", "ilf-jax config SECTION", "ilf-jax run --config=NAME"):
        assert part in done.stdout


@pytest.mark.fast
@pytest.mark.parametrize(("changes", "said"), [
    ({"judge.checkpoint": "hf:/no/judge"}, "config.judge.checkpoint: "),
    ({"data.eval_source": "jsonl:/no/held_out.jsonl"}, "config.data.eval_source: no file /no/held_out.jsonl"),
    ({"data.folder": "/no/folder"}, "config.data.folder: no folder /no/folder"),
    ({"reward.source": "tfsd:x"}, "config.reward.source: 'tfsd:x' given; .*did you mean tfds:x"),
    ({"policy.tokenizer": "file:/no/tokenizer.json"}, "config.policy.tokenizer: no file /no/tokenizer.json"),
    ({"task": "file:/no/task.py:Task"}, "config.task: /no/task.py: there is no such Python file"),
    ({"baselines": {"a": {"feedback": {"source": "file:/no/f.py:f"}}}}, "config.feedback.source: /no/f.py"),
])
def test_early_checks(changes, said):
    base = ilf_jax.config.read(ilf_jax.base_config())
    config = ilf_jax.config.with_overrides(base, {"policy.checkpoint": "init:tiny", **changes})
    with pytest.raises(InputError, match=said):
        early_checks.check(config)


@pytest.mark.fast
def test_a_model_that_plays_no_part_need_not_be_there():
    changes = {"judge.checkpoint": "hf:/no/judge", "score.method": "random", "policy.checkpoint": "init:tiny"}
    early_checks.check(ilf_jax.config.with_overrides(ilf_jax.config.read(ilf_jax.base_config()), changes))
