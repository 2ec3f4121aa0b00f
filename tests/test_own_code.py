"""A user's own reward, feedback, task and objective: from a file and from Python, killed, resumed, refused."""

import json
import pathlib
import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import registry
from ilf_jax.errors import InputError, WaitingError
from ilf_jax.tasks.word_removal import WordRemoval

pytestmark = pytest.mark.usefixtures("quick_compiles")

REWARD = """
def reward(document, draft, feedback, refinement):
    assert isinstance(document, str) and isinstance(draft, str) and isinstance(feedback, str)
    return {sign}float(len(refinement))

def batched(documents, drafts, feedbacks, refinements):
    assert len(documents) == len(drafts) == len(feedbacks) == len(refinements) > 1
    return [float(len(text)) for text in refinements]

def feedback(document, draft):
    return f"Shorter than {{len(draft)}}, please."

def feedback_of_all(documents, drafts):
    return [f"Shorter than {{len(draft)}}, please." for draft in drafts]
"""
TASK = """
from ilf_jax.tasks.task import MetricInfo
from ilf_jax.tasks.word_removal import WordRemoval

class Shouting(WordRemoval):
    name = "shouting"
    metrics = (MetricInfo("capitals", "lower", "share of capital letters"),)

    def measure(self, example, text):
        return {"capitals": sum(c.isupper() for c in text) / max(1, len(text))}
"""


def stage_records(folder, stage, iteration=1):
    rows = [json.loads(line) for path in sorted((folder / f"iteration_{iteration:03d}" / stage).glob("*-of-*.jsonl"))
            for line in path.read_text().split("\n") if line]
    return {row["id"]: row for row in rows}


def all_records(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl")
            if p.name != "performance.jsonl"}


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "my_code.py"
    path.write_text(REWARD.format(sign=""))
    return path


@pytest.mark.parametrize("name", ["reward", "batched"])
def test_a_reward_from_a_file_picks_the_refinements(tiny_config, tmp_path, code, name):
    tiny_config.score.method = f"file:{code}:{name}"
    ilf_jax.run(tiny_config, tmp_path / "run")
    candidates, scored = (stage_records(tmp_path / "run", stage) for stage in ("refine", "score"))
    assert len(scored) == 6
    for i, row in scored.items():
        assert row["scores"] == [float(len(text)) for text in candidates[i]["texts"]]
    tiny_config.score.method = "longest"
    ilf_jax.run(tiny_config, tmp_path / "longest")
    longest = stage_records(tmp_path / "longest", "finetune")
    assert stage_records(tmp_path / "run", "finetune") == longest


def test_python_functions_are_the_same_as_functions_in_a_file(tiny_config, tmp_path, code):
    module = registry.load_file(str(code))
    ilf_jax.run(tiny_config, tmp_path / "python", reward=module.reward, feedback=module.feedback)
    tiny_config.score.method, tiny_config.feedback.source = f"file:{code}:reward", f"file:{code}:feedback_of_all"
    ilf_jax.run(tiny_config, tmp_path / "file")
    for stage in ("refine", "score", "finetune"):
        assert stage_records(tmp_path / "python", stage) == stage_records(tmp_path / "file", stage)
    given = stage_records(tmp_path / "python", "feedback")
    drafts = stage_records(tmp_path / "python", "draft")
    assert {i: row["text"] for i, row in given.items()} == {
        i: f"Shorter than {len(row['text'])}, please." for i, row in drafts.items()}


def test_feedback_is_written_in_shards_and_not_asked_for_twice(tiny_config, tmp_path, code, monkeypatch):
    """A source that fails on the fourth document: the first two shards (of two documents) stay."""
    tiny_config.feedback.batch_size = 2
    asked = tmp_path / "asked"
    code.write_text(f"""
def feedback(document, draft):
    with open({str(asked)!r}, "a+") as f:
        f.write(document + "\\n")
        f.seek(0)
        if f.read().count("\\n") == 4:
            raise ConnectionError("the service is away")
    return "Say less."
""")
    tiny_config.feedback.source = f"file:{code}:feedback"
    with pytest.raises(InputError, match=r"my_code\.py:7: feedback\(\) failed on document '.+': ConnectionError"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    ilf_jax.run(tiny_config, tmp_path / "run")
    documents = asked.read_text().split("\n")[:-1]
    assert len(documents) <= 8 and len(set(documents)) == 6  # none of a written shard is asked about again
    assert all(row["text"] == "Say less." for row in stage_records(tmp_path / "run", "feedback").values())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def reward(document, draft, feedback, refinement):\n    return 1 / 0\n",
         "my_code.py:2: reward() failed on document"),
        ("def reward(document, draft, feedback, refinement):\n    return 'good'\n", "gave 'good' for document"),
        ("def reward(document, draft, feedback, refinement):\n    return float('nan')\n", "gave nan for document"),
        ("def reward(document, draft):\n    return 1.0\n", "is called as NAME(document, draft, feedback, refinement)"),
        ("def rewards(document):\n    return 1.0\n", "has no function or class reward; did you mean rewards?"),
        ("def reward(:\n", "my_code.py:1: SyntaxError"),
        ("import no_such_package\n", "my_code.py:1: ModuleNotFoundError"),
        ("def reward(documents, drafts, feedbacks, refinements):\n    return [1.0]\n", "returned 1 values for"),
    ],
)
def test_errors_in_user_code_name_place_and_document(tiny_config, tmp_path, code, source, words):
    code.write_text(source)
    tiny_config.score.method = f"file:{code}:reward"
    with pytest.raises(InputError) as error:
        ilf_jax.run(tiny_config, tmp_path / "run")
    assert words in str(error.value)


def test_a_task_of_ones_own(tiny_config, tmp_path, code):
    code.write_text(TASK)
    tiny_config.task = f"file:{code}:Shouting"
    metrics = ilf_jax.run(tiny_config, tmp_path / "run")
    assert {row["metric"] for row in metrics if row["stage"] == "evaluate"} >= {"capitals"}
    assert json.loads((tmp_path / "run/run.json").read_text())["metric_directions"]["capitals"] == "lower"
    assert "capitals" in (tmp_path / "run/report.html").read_text()


def test_an_objective_of_ones_own_equals_the_built_in_one(tiny_config, tmp_path, code):
    code.write_text("""
import jax.numpy as jnp

def imitate(params, ref_params, batch, *, model):
    losses = -model.logprobs(params, batch)
    return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"]), {"mean_logprob": jnp.mean(-losses)}
""")
    tiny_config.finetune.objective = f"file:{code}:imitate"
    ilf_jax.run(tiny_config, tmp_path / "own")
    tiny_config.finetune.objective = "nll"
    ilf_jax.run(tiny_config, tmp_path / "nll")
    own, nll = ([json.loads(line) for line in (tmp_path / name / "iteration_001/finetune/steps.jsonl").open()]
                for name in ("own", "nll"))
    assert [row["loss"] for row in own] == pytest.approx([row["loss"] for row in nll], rel=1e-5)
    assert all("mean_logprob" in row for row in own)


_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import make_tiny_config
import ilf_jax
config = make_tiny_config()
config.score.method = f"file:{sys.argv[3]}:reward"
ilf_jax.run(config, sys.argv[2])
"""


def test_killed_in_user_code_and_resumed_and_refused_when_the_code_changed(tiny_config, tmp_path, code):
    tiny_config.score.method = f"file:{code}:reward"
    ilf_jax.run(tiny_config, tmp_path / "whole")
    text = code.read_text()
    stopped = tmp_path / "killed_once"
    code.write_text(text.replace("    assert isinstance", f"""
    import os, signal
    if not os.path.exists({str(stopped)!r}):
        open({str(stopped)!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    assert isinstance""", 1))
    command = [sys.executable, "-c", _RUN, str(pathlib.Path(__file__).parent), str(tmp_path / "run"), str(code)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert (tmp_path / "run/iteration_001/refine/manifest.json").exists()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("draft", "feedback", "refine", "score"):
        assert stage_records(tmp_path / "run", stage) == stage_records(tmp_path / "whole", stage)
    code.write_text(REWARD.format(sign="-"))
    with pytest.raises(InputError, match=r"(?s)another configuration.*source_hashes\.score\.method=file:.*my_code\.py"):
        ilf_jax.run(tiny_config, tmp_path / "run")


def test_a_registered_name_and_a_module(tiny_config, tmp_path, code, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    ilf_jax.register("scorer", "my_reward_for_tests", "my_code:reward")
    tiny_config.score.method = "my_reward_for_tests"
    ilf_jax.run(tiny_config, tmp_path / "registered")
    tiny_config.score.method = "module:my_code:reward"
    ilf_jax.run(tiny_config, tmp_path / "module")
    assert stage_records(tmp_path / "registered", "score") == stage_records(tmp_path / "module", "score")
    with pytest.raises(InputError, match="cannot name a scorer"):
        ilf_jax.register("scorer", "longest", len)
    with pytest.raises(InputError, match="is not one of task, feedback, scorer, objective"):
        ilf_jax.register("reward", "mine", len)


def test_reading_a_config_loads_no_jax(code):
    program = ("import sys, ilf_jax; from ilf_jax import config; c = ilf_jax.base_config(); "
               f"c.score.method = 'file:{code}:reward'; config.read(c); "
               "print(sorted({'jax', 'flax', 'orbax', 'scipy', 'tokenizers'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_INSTANCE = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import make_tiny_config
import ilf_jax
from ilf_jax.tasks.word_removal import WordRemoval
config = make_tiny_config()
config.iterations = 2
ilf_jax.run(config, sys.argv[2], task=WordRemoval())
"""


def test_an_instance_from_python_is_resumed_in_another_process(tiny_config, tmp_path):
    """Its hash is that of its class's file, not of where it lies in memory."""
    ilf_jax.run(tiny_config, tmp_path / "run", task=WordRemoval())
    command = [sys.executable, "-c", _INSTANCE, str(pathlib.Path(__file__).parent), str(tmp_path / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run/iteration_002/evaluate/manifest.json").exists()


def test_a_stopped_baseline_leaves_no_lock(tiny_config, tmp_path):
    """As in a notebook, whose last traceback keeps the frames of the run alive."""
    tiny_config.baselines = {"asked": {"feedback": {"source": "human"}}}
    with pytest.raises(WaitingError, match="wait for feedback") as kept:
        ilf_jax.run(tiny_config, tmp_path / "run")
    with pytest.raises(WaitingError, match="wait for feedback"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    assert kept.value.__traceback__ is not None


def test_a_baseline_with_other_feedback_is_about_the_same_drafts(tiny_config):
    tiny_config.feedback.source = "recorded"
    tiny_config.baselines = {"no_feedback": {"feedback": {"source": "none"}, "score": {"method": "random"}}}
    config = config_lib.read(tiny_config)
    assert config_lib.baseline(config, "no_feedback").draft.source == "recorded"


@pytest.mark.parametrize("name", ["before_training", "refinement", "references", "x_best_of_4", "ILF"])
def test_a_baseline_is_not_named_like_another_system(tiny_config, tmp_path, name):
    tiny_config.baselines = {name: {"finetune": {"target": "initial"}}}
    with pytest.raises(InputError, match="is the name of another system"):
        ilf_jax.run(tiny_config, tmp_path / "run")


def test_a_file_is_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    """A config file's __file__ is relative or absolute, by who loads it."""
    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "reward.py").write_text("def reward(document, draft, feedback, refinement):\n    return 0.0\n")
    monkeypatch.chdir(tmp_path / "here")

    def read(path):
        choice = f"file:{path}:reward"
        config = ilf_jax.base_config()
        config.score.method, config.baselines = choice, {"other": {"score": {"method": choice}}}
        return config_lib.to_dict(config_lib.read(config))

    assert read("reward.py") == read(tmp_path / "here/reward.py") != read(tmp_path / "reward.py")
    assert read("reward.py")["baselines"]["other"]["score.method"] == "file:reward.py:reward"
    assert read(tmp_path / "reward.py")["score"]["method"] == f"file:{tmp_path}/reward.py:reward"
