"""Reward models end to end: trained, measured, used to pick refinements and the best of N, and gone on with."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import records
from ilf_jax.data import builtin
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.runtime import checkpoint, stage_folder
from ilf_jax.tasks import word_removal
from ilf_jax.tokenizers.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compiles")

KINDS = ("comparison", "classification", "scalar")


def with_reward(c, kind):
    """The small model that ships with the package: its tokenizer knows the answers as single tokens."""
    c.policy.checkpoint, c.policy.tokenizer = "builtin:word_removal_1m", None
    c.data.train_size, c.data.eval_size = 3, 4
    c.reward.kind = kind
    c.reward.source, c.reward.eval_source = "builtin:word_removal_comparisons:12", "builtin:word_removal_comparisons"
    c.reward.eval_size, c.reward.batch_size, c.reward.epochs, c.reward.max_length = 5, 4, 1, 128
    c.reward.learning_rate = 1e-3
    c.score.method, c.evaluate.best_of_n = "reward_model", 3
    c.evaluate.max_new_tokens = 24
    return c


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    """(kind, folder, metrics) of a finished run."""
    from conftest import make_tiny_config

    folder = tmp_path_factory.mktemp("reward") / request.param
    return request.param, folder, ilf_jax.run(with_reward(make_tiny_config(), request.param), folder)


def rows(folder, cls):
    return {row["id"]: records.from_json(cls, row)
            for path in sorted(folder.glob("[0-9]*.jsonl")) for row in map(json.loads, path.open())}


def test_the_policy_s_best_of_n_is_the_stage_s(run):
    _, folder, _ = run
    best = rows(folder / "iteration_001/best_of_n", records.BestOfN)
    examples = [records.from_json(records.Example, json.loads(line))
                for line in (folder / "iteration_001/evaluate/examples.jsonl").open()]
    ranked = ilf_jax.load(folder).generate(examples, n=3, best_of=3)
    assert [texts[0] for texts in ranked] == [best[e.id].texts[best[e.id].chosen] for e in examples]
    assert [sorted(texts) for texts in ranked] == [sorted(best[e.id].texts) for e in examples]



def model_of(folder):
    place = folder / "iteration_000/reward_model"
    config = checkpoint_io.read_config(f"orbax:{place}")
    params = checkpoint.load_model(place, transformer.param_shapes(config))
    return config, params, Tokenizer.load(f"hf:{place / 'tokenizer'}")


def hidden_at_end(model, text):
    config, params, tokenizer = model
    ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos)
    return transformer.forward(config, params, jnp.array([ids]))[0, -1]


def probability(model, question):
    """p(favourable) / (p(favourable) + p(other)) after a whole prompt."""
    config, params, tokenizer = model
    hidden = hidden_at_end(model, question.prompt.text)
    prompt = tokenizer.encode(question.prompt.text, add_bos=tokenizer.adds_bos)
    tokens = [tokenizer.encode_continuation(prompt, question.prompt.text, f" {answer}") for answer in question.answers]
    assert all(len(t) == 1 for t in tokens)
    logits = transformer.unembed(config, params, hidden, jnp.array([t[0] for t in tokens]))
    return float(1 / (1 + np.exp(np.float64(logits[1]) - np.float64(logits[0]))))


def reward(kind, model, example, text, anchor):
    """Each prompt by itself, in one full forward pass."""
    task = word_removal.WordRemoval()
    if kind == "scalar":
        hidden = hidden_at_end(model, f"{task.policy_prompt(example).text} {text}".rstrip())
        return float(hidden @ model[1]["scalar_head"])
    odds = lambda p: np.log(p / (1 - p))  # noqa: E731
    if kind == "classification":
        return odds(probability(model, task.rate_question(example, text)))
    first, second = (probability(model, task.compare_question(example, *shown))
                     for shown in ((text, anchor), (anchor, text)))
    return (odds(first) - odds(second)) / 2


def test_rewards_are_those_of_separate_prompts(run):
    kind, folder, _ = run
    model, examples = model_of(folder), {e.id: e for e in builtin.generate("word_removal", "test")}
    best = rows(folder / "iteration_001/best_of_n", records.BestOfN)
    assert len(best) == 4
    for row in best.values():
        right = [reward(kind, model, examples[row.id], text, row.texts[0]) for text in row.texts]
        np.testing.assert_allclose(row.rewards, right, atol=2e-4)


def test_the_best_usable_output_is_picked(run):
    _, folder, metrics = run
    task = word_removal.WordRemoval()
    for k in (0, 1):
        best = rows(folder / f"iteration_00{k}/best_of_n", records.BestOfN)
        for row in best.values():
            usable = [task.is_usable(None, text) for text in row.texts]
            allowed = [r for r, ok in zip(row.rewards, usable, strict=True) if ok or not any(usable)]
            assert row.rewards[row.chosen] == max(allowed)
        of_stage = {m["metric"]: m["value"] for m in metrics if (m["iteration"], m["stage"]) == (k, "best_of_n")}
        assert of_stage["reward_chosen"] == pytest.approx(np.mean([row.rewards[row.chosen] for row in best.values()]))
        assert {"insult_rate", "reward_mean", "unique_outputs"} <= set(of_stage)
        shares = [row.values["insult_rate"] for row in best.values()]  # of the picked texts
        assert of_stage["insult_rate"] == pytest.approx(np.mean(shares))


def test_refinements_are_picked_by_the_reward(run):
    kind, folder, _ = run
    model, examples = model_of(folder), {e.id: e for e in builtin.generate("word_removal", "train")}
    drafts = rows(folder / "iteration_001/draft", records.Draft)
    candidates = rows(folder / "iteration_001/refine", records.Candidates)
    for row in rows(folder / "iteration_001/score", records.Scored).values():
        right = [reward(kind, model, examples[row.id], text, drafts[row.id].text) for text in candidates[row.id].texts]
        np.testing.assert_allclose(row.scores, right, atol=2e-4)


def test_preferences_and_numbers(run):
    kind, folder, metrics = run
    model = model_of(folder)
    found = rows(folder / "iteration_000/reward", records.Preference)
    given = builtin.generate("word_removal_comparisons", "test")[:5]
    assert [row.id for row in found.values()] == [c.id for c in given]
    for c in given:
        if kind == "comparison":
            right = 1 / (1 + np.exp(-reward(kind, model, c.example, c.first, c.second)))
        else:
            first, second = (reward(kind, model, c.example, text, "") for text in (c.first, c.second))
            right = 1 / (1 + np.exp(second - first))
        assert found[c.id].probability == pytest.approx(right, abs=1e-4) and found[c.id].preferred == c.preferred
    numbers = {m["metric"]: m for m in metrics if m["stage"] == "reward"}
    hits = [(row.probability > 0.5) == (row.preferred == "first") for row in found.values()]
    assert numbers["accuracy"]["value"] == pytest.approx(np.mean(hits)) and numbers["accuracy"]["n"] == 5
    assert 0 <= numbers["calibration_error"]["value"] <= 1
    assert numbers["comparisons"]["value"] == 12 and not (folder / "iteration_000/reward/state").exists()


def test_killed_and_gone_on_with_is_never_killed(run, tiny_config, tmp_path, monkeypatch):
    c = with_reward(tiny_config, run[0])
    class KilledError(Exception):
        pass

    def write(folder, *shard, original=stage_folder.StageFolder.write_shard):
        original(folder, *shard)
        if folder.path.name == "best_of_n":
            raise KilledError

    saves = []

    def save(self, step, state, original=checkpoint.TrainingCheckpoints.save, **facts):
        original(self, step, state, **facts)
        saves.append(step)
        if len(saves) == 1:
            self._wait()
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.TrainingCheckpoints, "save", save)
        with pytest.raises(KilledError):
            ilf_jax.run(c, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(stage_folder.StageFolder, "write_shard", write)
        for _ in range(2):  # one more shard each time
            with pytest.raises(KilledError):
                ilf_jax.run(c, tmp_path / "run")
    ilf_jax.run(c, tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (run[1] / "metrics.jsonl").read_bytes()


def test_a_trained_reward_model_serves_another_run(run, tiny_config, tmp_path):
    kind, folder, before = run
    c = with_reward(tiny_config, kind)
    c.reward.source = c.reward.eval_source = None
    c.iterations, c.score.method = 0, "instruct_rm"
    c.reward_model.checkpoint = f"orbax:{folder / 'iteration_000/reward_model'}"
    metrics = ilf_jax.run(c, tmp_path / "run")
    wanted = lambda rows: [r for r in rows if r["iteration"] == 0 and r["stage"] == "best_of_n"]  # noqa: E731
    assert wanted(metrics) == wanted(before)
    assert {m["iteration"] for m in metrics} == {0} and not (tmp_path / "run/iteration_001").exists()
    c.reward.kind = KINDS[KINDS.index(kind) - 1]
    with pytest.raises(InputError, match=rf"config\.reward\.kind='{c.reward.kind}', but .* was trained as '{kind}'"):
        ilf_jax.run(c, tmp_path / "other")


def test_lora_trains_the_head_too(tiny_config, tmp_path):
    c = with_reward(tiny_config, "scalar")
    c.reward.lora_rank, c.iterations = 2, 0
    metrics = ilf_jax.run(c, tmp_path / "run")
    config, params, _ = model_of(tmp_path / "run")
    assert config.scalar_head and np.any(np.asarray(params["scalar_head"]))
    assert not any("lora" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    assert any(m["metric"] == "accuracy" for m in metrics)


def test_what_is_refused(tiny_config, tmp_path):
    c = with_reward(tiny_config, "classification")
    c.reward.source = None
    with pytest.raises(InputError, match=r"a reward model is needed .*config\.reward\.source"):
        ilf_jax.run(c, tmp_path / "a")
    c = with_reward(tiny_config, "classification")
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", "train:512"
    with pytest.raises(InputError, match=r"config\.reward\.kind='classification'.*more than one token.*'scalar'"):
        ilf_jax.run(c, tmp_path / "b")
    c = with_reward(tiny_config, "scalar")
    c.reward.max_length = 20
    with pytest.raises(InputError, match=r"config\.reward\.max_length=20"):
        ilf_jax.run(c, tmp_path / "c")
    c = with_reward(tiny_config, "scalar")
    c.reward.lora_targets = "nothing"
    c.reward.lora_rank = 2
    with pytest.raises(InputError, match=r"config\.reward\.lora_targets='nothing'"):
        ilf_jax.run(c, tmp_path / "d")


def test_a_long_document_is_cut_and_never_the_answer(tiny_config, tmp_path):
    pairs = [{"document": "word " * 900, "first": f"good {i}", "second": f"bad {i}", "preferred": "first"}
             for i in range(6)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for kind in KINDS:
        c = with_reward(config_lib.base_config(), kind)
        c.task, c.iterations, c.data.eval_size = "summarize", 0, 0
        c.data.source = "builtin:word_removal"
        c.reward.source, c.reward.eval_source, c.reward.eval_size = f"jsonl:{path}", None, 2
        c.reward.max_length, c.evaluate.best_of_n = 400, 1
        metrics = {m["metric"]: m["value"] for m in ilf_jax.run(c, tmp_path / kind)}
        assert metrics["comparisons"] == 4 and np.isfinite(metrics["loss"])


def test_systems_are_ranked(tiny_config, tmp_path):
    c = with_reward(tiny_config, "classification")
    c.score.method, c.evaluate.rank, c.baselines = "random", True, ("initial",)
    metrics = ilf_jax.run(c, tmp_path / "run")
    matches = rows(tmp_path / "run/iteration_001/rank", records.Match)
    names = ["before_training", "before_training_best_of_3", "refinement", "refinement_best_of_3", "initial",
             "initial_best_of_3"]
    assert {frozenset((m.first, m.second)) for m in matches.values()} == {
        frozenset((a, b)) for i, a in enumerate(names) for b in names[i + 1 :]}
    found = {m["metric"]: m for m in metrics if m["stage"] == "rank"}
    for match in matches.values():
        assert found[f"win_rate[{match.id}]"]["value"] == match.win_rate
        assert set(match.outcomes) == set(rows(tmp_path / "run/iteration_000/evaluate", records.Output))
    of_all = [found[f"win_rate[{name}]"]["value"] for name in names]
    assert np.mean(of_all) == pytest.approx(0.5)  # what one wins another loses
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    ilf_jax.run(c, tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_feedback_and_refinement_are_written_and_split(tiny_config, tmp_path):
    c = tiny_config
    c.policy.checkpoint, c.policy.tokenizer = "builtin:word_removal_1m", None
    c.finetune.target, c.score.method = "feedback_refinement", "first"
    c.finetune.learning_rate, c.finetune.epochs, c.data.train_size = 2e-3, 6, 16
    for section in (c.draft, c.refine, c.feedback, c.evaluate):
        section.max_new_tokens = 32
    c.refine.temperature = c.evaluate.temperature = 0.0
    ilf_jax.run(c, tmp_path / "run")
    folder = tmp_path / "run/iteration_001"
    feedback = rows(folder / "feedback", records.Feedback)
    for target in rows(folder / "finetune", records.Target).values():
        said, cue, refinement = target.completion.partition(" Better text: ")
        assert cue and said == feedback[target.id].text and word_removal.parse(refinement) is not None
    outputs = rows(folder / "evaluate", records.Output).values()
    assert all("Better text" not in o.text and "Remove" not in o.text for o in outputs)
    tokenizer = Tokenizer.load("builtin:word_removal_1m")
    assert all(o.num_tokens > len(tokenizer.encode(o.text)) + 3 for o in outputs)  # feedback was written too


def test_a_comparison_gives_its_document(tmp_path):
    compared = records.Comparison("1", "d", "a", "b", "second", title="t")
    assert compared.in_order == ("b", "a") and compared.example == records.Example("1", "d", "t")
    assert dataclasses.asdict(compared)["preferred"] == "second"
