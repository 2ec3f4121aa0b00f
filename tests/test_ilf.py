"""The loop as a whole, on random params: what it writes, in what order, and what each setting changes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import ilf_jax
from ilf_jax import ilf, records
from ilf_jax.data import builtin
from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io
from ilf_jax.reporting import methods, workfolder
from ilf_jax.runtime import stage_folder
from ilf_jax.tasks import word_removal

pytestmark = pytest.mark.usefixtures("quick_compiles")

RECORDS = {"draft": records.Draft, "feedback": records.Feedback, "refine": records.Candidates,
           "score": records.Scored, "finetune": records.Target, "evaluate": records.Output}


def rows(folder):
    return [json.loads(line) for path in sorted(folder.glob("[0-9]*.jsonl"))
            for line in path.read_text().split("\n") if line]


def by_id(folder, key):
    return {row["id"]: row[key] for row in rows(folder)}


def value(metrics, iteration, stage, name):
    (row,) = [m for m in metrics if (m["iteration"], m["stage"], m["metric"]) == (iteration, stage, name)]
    return row["value"]


@pytest.fixture
def trained(tiny_config, tiny_run):
    """tiny_config with the tokenizer that tiny_run has trained, so that runs differ by nothing else."""
    tiny_config.policy.tokenizer = f"hf:{tiny_run[1] / 'tokenizer'}"
    return tiny_config


def jsonl(path, count=14, **more):
    """A file of recorded examples. The texts hold what JSON does not escape and str.splitlines() splits at."""
    lines = [{"id": f"d{i}", "document": f"Ada the number {i}", "draft": f"Ada is a fool {i}.",
              "feedback": f"Remove\u2028a fool {i}\u0085 and more.", "reference": f"Ada is a gem {i}.",
              "human_refinement": f"Ada is a star {i}.", **{k: v(i) for k, v in more.items()}} for i in range(count)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return f"jsonl:{path}"


def test_what_the_stages_cost(tiny_run):
    rows = [json.loads(line) for line in (tiny_run[1] / "performance.jsonl").read_text().splitlines()]
    found = {(row["iteration"], row["stage"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    for stage in ("draft", "refine", "score", "finetune", "evaluate"):
        for name in ("seconds", "tokens", "tokens_per_second_per_device", "peak_memory", "host_seconds"):
            assert found[2, stage, f"performance/{name}"] > 0, (stage, name)
    assert (2, "draft", "performance/mfu") not in found  # of a CPU nobody knows the peak
    assert 0 < found[2, "finetune", "performance/saving_seconds"] < found[2, "finetune", "performance/host_seconds"]
    assert found[2, "refine", "performance/saving_seconds"] == 0
    assert 0 < found[2, "run", "performance/goodput"] < 1
    examples = [json.loads(line) for path in (tiny_run[1] / "iteration_002/draft").glob("0*.jsonl")
                for line in path.read_text().splitlines()]
    assert found[2, "draft", "performance/tokens"] > sum(row["num_tokens"] for row in examples)


def test_old_params_are_deleted_where_few_are_to_be_kept(tiny_config, tmp_path):
    tiny_config.iterations, tiny_config.checkpoint.keep = 2, 1
    ilf_jax.run(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run/iteration_001/checkpoint").exists()
    assert (tmp_path / "run/iteration_002/checkpoint/model.json").exists()
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    ilf_jax.run(tiny_config, tmp_path / "run")  # a finished run needs what is gone no more
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_divergence_from_the_base_is_measured(tiny_config, tmp_path):
    tiny_config.evaluate.kl, tiny_config.finetune.learning_rate = True, 1e-2
    rows = {row["metric"]: row for row in ilf_jax.run(tiny_config, tmp_path / "run") if row["iteration"] == 1}
    for name in ("kl_base_policy", "kl_policy_base", "kl_base_policy_per_token", "kl_policy_base_per_token"):
        assert rows[name]["stderr"] > 0 and rows[name]["n"] == 4
    assert rows["kl_policy_base_per_token"]["value"] > 0


def test_a_profile_of_some_steps(tiny_config, tmp_path):
    tiny_config.finetune.epochs = 2
    ilf.run(tiny_config, tmp_path / "run", profiled_steps=2)
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))


def names_in(folder):
    """Of all files but the digests beside others."""
    return {p.name for p in folder.iterdir() if p.suffix != ".crc32"}


@pytest.mark.versions
@pytest.mark.fast
def test_files_and_manifests(tiny_run):
    _, folder, _ = tiny_run
    assert names_in(folder) == {
        "config.json", "iteration_000", "iteration_001", "iteration_002", "metrics.jsonl", "tensorboard",
        "performance.jsonl", "report.html", "tokenizer", ".lock", "run.json"}
    assert {p.name for p in (folder / "iteration_000").iterdir()} == {"evaluate"}
    assert json.loads((folder / "config.json").read_text())["refine"]["num_candidates"] == 2
    hashes = set()
    for k in (1, 2):
        assert names_in(folder / f"iteration_{k:03d}") == {*RECORDS, "checkpoint", "examples.jsonl"}
        for stage, cls in RECORDS.items():
            here = folder / f"iteration_{k:03d}" / stage
            manifest = json.loads((here / "manifest.json").read_text())
            names = sorted(p.name for p in here.glob("[0-9]*.jsonl"))
            assert names == [f"{i:05d}-of-{len(names):05d}.jsonl" for i in range(len(names))]
            found = rows(here)
            assert manifest["complete"] is True
            assert (manifest["shards"], manifest["count"]) == (len(names), len(found))
            assert {"python", "jax", "orbax-checkpoint"} <= manifest["versions"].keys()
            hashes.add(manifest["config_hash"])
            assert all(set(row) == {f.name for f in dataclasses.fields(cls)} for row in found)
        first = (k - 1) * 6
        expected = [e.id for e in builtin.generate("word_removal", "train")[first : first + 6]]
        examples = [json.loads(line)["id"] for line in
                    (folder / f"iteration_{k:03d}/examples.jsonl").read_text().splitlines()]
        assert examples == expected
        for stage in ("draft", "feedback", "refine", "score"):
            assert sorted(row["id"] for row in rows(folder / f"iteration_{k:03d}" / stage)) == sorted(expected)
        assert {"params", "model.json", "tokenizer"} == {
            p.name for p in (folder / f"iteration_{k:03d}/checkpoint").iterdir()}
    assert len(hashes) == 1
    assert len(list((folder / "iteration_001/draft").glob("*.jsonl"))) == 3
    assert not [p for p in folder.rglob("*") if "tmp" in p.name]


@pytest.mark.versions
@pytest.mark.fast
def test_metrics(tiny_run):
    _, folder, metrics = tiny_run
    assert metrics == [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = {"iteration", "stage", "metric", "value", "stderr", "n"}
    assert all(set(m) in (keys, keys | {"low", "high"}) for m in metrics)  # an interval where a share is near 0 or 1
    assert all(m["low"] <= m["value"] <= m["high"] for m in metrics if "low" in m)
    names = [(m["iteration"], m["stage"], m["metric"]) for m in metrics]
    assert len(set(names)) == len(names)
    assert [k for k, stage, name in names if (stage, name) == ("evaluate", "insult_rate")] == [0, 1, 2]
    for m in metrics:
        assert np.isfinite(m["value"]) and (m["stderr"] is None or np.isfinite(m["stderr"])), m
    assert value(metrics, 1, "refine", "logprob_gap") < 1e-4
    assert value(metrics, 1, "finetune", "steps") == 3 and value(metrics, 2, "finetune", "steps") == 6  # cumulative


def test_order_of_stages(trained, tmp_path, monkeypatch):
    seen = []

    def watch(stage, original):
        def run(context, *args):
            seen.append((context.iteration, stage))
            return original(context, *args)
        return run

    for stage, name in ({stage: stage for stage in RECORDS} | {"feedback": "give_feedback"}).items():
        monkeypatch.setattr(ilf, name, watch(stage, getattr(ilf, name)))
    trained.iterations = 2
    ilf_jax.run(trained, tmp_path / "run")
    assert seen == [(0, "evaluate"), *((k, stage) for k in (1, 2) for stage in RECORDS)]


def test_finetuning_is_complete_before_the_evaluation_writes(trained, tmp_path, monkeypatch):
    finetuned, seen = tmp_path / "run/iteration_001/finetune/manifest.json", []
    write_shard = stage_folder.StageFolder.write_shard

    def watch(folder, *args):
        if str(folder.path).endswith("iteration_001/evaluate"):
            seen.append(json.loads(finetuned.read_text())["complete"])
        return write_shard(folder, *args)

    monkeypatch.setattr(stage_folder.StageFolder, "write_shard", watch)
    ilf_jax.run(trained, tmp_path / "run")
    assert seen
    assert all(seen)


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), InputError("a document is too long")])
def test_finetuning_is_kept_where_the_evaluation_behind_it_ends_early(trained, tmp_path, monkeypatch, error):
    def evaluate(context, *args):
        if context.iteration == 1:
            raise error

    monkeypatch.setattr(ilf, "evaluate", evaluate)
    with pytest.raises(type(error)):
        ilf_jax.run(trained, tmp_path / "run")
    here = tmp_path / "run/iteration_001"
    assert json.loads((here / "finetune/manifest.json").read_text())["complete"]
    assert checkpoint_io.read_config(f"orbax:{here}/checkpoint")
    assert not (here / "finetune/state").exists()


@pytest.mark.versions
@pytest.mark.fast
def test_picked_texts_are_trained_on(tiny_run):
    _, folder, _ = tiny_run
    for k in (1, 2):
        here = folder / f"iteration_{k:03d}"
        texts, chosen = by_id(here / "refine", "texts"), by_id(here / "score", "chosen")
        scores = by_id(here / "score", "scores")
        assert all(chosen[i] == int(np.argmax(scores[i])) for i in chosen)  # none is usable here, so all are allowed
        targets = by_id(here / "finetune", "completion")
        new = {i: texts[i][chosen[i]] for i in texts if texts[i][chosen[i]].strip()}
        assert {i: targets[i] for i in targets if i in texts} == new
    first = by_id(folder / "iteration_001/finetune", "completion")
    assert first.items() <= targets.items()


def test_candidates_do_not_depend_on_the_batch(trained, tiny_run, tmp_path):
    """Nor do drafts and outputs; a batch of one works too."""
    for size in (1, 4):
        for section in (trained.draft, trained.refine, trained.evaluate):
            section.batch_size = size
        ilf_jax.run(trained, tmp_path / f"run-{size}")
        for stage, key in (("draft", "text"), ("refine", "texts"), ("score", "chosen")):
            ours = by_id(tmp_path / f"run-{size}/iteration_001" / stage, key)
            assert ours == by_id(tiny_run[1] / "iteration_001" / stage, key)
        assert (by_id(tmp_path / f"run-{size}/iteration_000/evaluate", "text")
                == by_id(tiny_run[1] / "iteration_000/evaluate", "text"))


def test_another_seed_gives_other_samples(trained, tiny_run, tmp_path):
    trained.seed = 1
    ilf_jax.run(trained, tmp_path / "run")
    ours = by_id(tmp_path / "run/iteration_001/draft", "text")
    theirs = by_id(tiny_run[1] / "iteration_001/draft", "text")
    assert ours.keys() == theirs.keys() and ours != theirs


def test_new_data_and_previous_params(trained, tiny_run, tmp_path):
    trained.iterations = 2
    trained.finetune.data, trained.finetune.init = "new", "previous"
    metrics = ilf_jax.run(trained, tmp_path / "run")
    assert value(metrics, 2, "finetune", "steps") == 3
    second = {row["id"] for row in rows(tmp_path / "run/iteration_002/finetune")}
    assert second <= {row["id"] for row in rows(tmp_path / "run/iteration_002/draft")}
    first_steps = [json.loads((folder / "iteration_002/finetune/steps.jsonl").read_text().splitlines()[0])["loss"]
                   for folder in (tmp_path / "run", tiny_run[1])]
    assert first_steps[0] != first_steps[1]
    # Iteration 1 has no previous one: the same as from the base.
    assert ((tmp_path / "run/iteration_001/finetune/steps.jsonl").read_bytes()
            == (tiny_run[1] / "iteration_001/finetune/steps.jsonl").read_bytes())


def test_previous_params_are_those_of_the_iteration_before(trained, tmp_path):
    """A learning rate too small to move anything: where training starts, it ends."""
    from test_resume import params

    trained.iterations = 2
    trained.finetune.init, trained.finetune.schedule, trained.finetune.warmup_fraction = "previous", "constant", 0.0
    ilf_jax.run(trained, tmp_path / "run")
    one, two = (params(tmp_path / f"run/iteration_00{k}/checkpoint") for k in (1, 2))
    assert any(not np.array_equal(one[name], two[name]) for name in one)
    trained.iterations, trained.finetune.learning_rate, trained.finetune.init = 1, 1e-30, "base"
    ilf_jax.run(trained, tmp_path / "still")
    still = params(tmp_path / "still/iteration_001/checkpoint")
    moved = max(float(np.abs(one[name] - still[name]).max()) for name in one)
    assert 1e-4 < moved < 1e-2  # three steps of 1e-3


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for pattern in ("*-of-*.jsonl", "manifest.json", "metrics.jsonl")
            for p in folder.rglob(pattern)}


def shards(folder):
    return sorted(path.name for path in folder.glob("*-of-*.jsonl"))


def test_baselines_share_what_they_do_not_override(trained, tmp_path):
    trained.baselines = ("initial", "random", "longest")
    metrics = ilf_jax.run(trained, tmp_path / "run")
    baselines, texts = tmp_path / "run/baselines", by_id(tmp_path / "run/iteration_001/refine", "texts")
    assert {p.name for p in baselines.iterdir()} == {"initial", "random", "longest"}
    assert names_in(baselines / "initial/iteration_001") == {
        "draft", "finetune", "evaluate", "checkpoint", "examples.jsonl"}
    assert (by_id(baselines / "initial/iteration_001/finetune", "completion")
            == {i: t for i, t in by_id(tmp_path / "run/iteration_001/draft", "text").items() if t})
    for target in ("random", "longest"):
        folder = baselines / target
        picks = {i: p[target] for i, p in by_id(folder / "iteration_001/score", "picks").items()}
        assert (by_id(folder / "iteration_001/finetune", "completion")
                == {i: texts[i][picks[i]] for i in texts if texts[i][picks[i]]})
        assert json.loads((folder / "config.json").read_text())["finetune"]["target"] == target
        shared = ("iteration_000/evaluate", *(f"iteration_001/{stage}" for stage in ("draft", "feedback", "refine")))
        for stage in shared:
            manifest = json.loads((folder / stage / "manifest.json").read_text())
            assert (folder / stage / manifest["records_in"]).resolve() == (tmp_path / "run" / stage).resolve()
            assert manifest["complete"] and shards(folder / stage) == [] and "cost" not in manifest
        for stage in ("score", "finetune", "evaluate"):
            assert shards(folder / "iteration_001" / stage)
        # What is shared stands in the baseline's own metrics, too.
        names = {(m["iteration"], m["stage"]) for m in map(json.loads, (folder / "metrics.jsonl").open())}
        assert {(0, "evaluate"), (1, "refine"), (1, "score")} <= names
    # The run's own metrics are its own.
    assert len({(m["iteration"], m["stage"], m["metric"]) for m in metrics}) == len(metrics)


def test_baselines_with_overrides_of_their_own(trained, tmp_path):
    """Each thing is drawn once: whoever comes first draws it, be it the run or an earlier baseline."""
    trained.iterations, trained.finetune.init = 2, "previous"
    trained.baselines = {
        "no_feedback": {"feedback": {"source": "none"}, "score": {"method": "random"}},
        "no_feedback_longest": {"feedback.source": "none", "score.method": "longest"},
        "hotter": {"refine.temperature": 2.0},
    }
    ilf_jax.run(trained, tmp_path / "run")

    def owner(name, iteration, stage):
        folder = tmp_path / "run/baselines" / name / f"iteration_{iteration:03d}" / stage
        manifest = json.loads((folder / "manifest.json").read_text())
        return (folder / manifest.get("records_in", ".")).resolve().relative_to((tmp_path / "run").resolve()).parts[:2]

    run = ("iteration_001",)
    assert owner("no_feedback", 1, "draft")[:1] == run and owner("hotter", 1, "feedback")[:1] == run
    assert owner("no_feedback", 1, "feedback") == ("baselines", "no_feedback")
    assert owner("no_feedback_longest", 1, "refine") == ("baselines", "no_feedback")
    assert owner("no_feedback_longest", 1, "score") == ("baselines", "no_feedback_longest")
    assert owner("hotter", 1, "refine") == ("baselines", "hotter")
    # From the second iteration on the policies differ, and with them everything that they write.
    for name in trained.baselines:
        for stage in ("draft", "feedback", "refine", "score"):
            assert owner(name, 2, stage) == ("baselines", name)
    before = snapshot(tmp_path / "run")
    ilf_jax.run(trained, tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_a_lost_shared_shard_is_named(trained, tmp_path):
    trained.baselines = ("random",)
    ilf_jax.run(trained, tmp_path / "run")
    next((tmp_path / "run/iteration_001/refine").glob("*-of-*.jsonl")).unlink()
    for path in (tmp_path / "run/baselines/random/iteration_001").glob("score/*"):
        path.unlink()
    with pytest.raises(InputError, match=r"iteration_001/refine/0000\d-of-.*is missing"):
        ilf_jax.run(trained, tmp_path / "run")


def test_recorded_drafts_and_feedback(trained, tmp_path):
    """Texts with line separators that JSON leaves as they are come through whole."""
    trained.data.source, trained.data.eval_source = jsonl(tmp_path / "data.jsonl"), None
    trained.feedback.source = "recorded"
    metrics = ilf_jax.run(trained, tmp_path / "run")
    drafts = rows(tmp_path / "run/iteration_001/draft")
    assert [(d["id"], d["text"], d["source"]) for d in drafts] == [
        (f"d{i}", f"Ada is a fool {i}.", "recorded") for i in range(6)]
    feedback = by_id(tmp_path / "run/iteration_001/feedback", "text")
    assert feedback["d3"] == "Remove\u2028a fool 3\u0085 and more."
    for name in ("nll_reference", "nll_human_refinement", "rouge_l"):
        assert np.isfinite(value(metrics, 1, "evaluate", name))
        of_documents = methods.per_document([workfolder.read(tmp_path / "run")], name)
        assert len(of_documents) == 4 and np.mean([*of_documents.values()]) == pytest.approx(
            value(metrics, 1, "evaluate", name))
    # Held-out documents are the last of the file.
    assert sorted(by_id(tmp_path / "run/iteration_001/evaluate", "text")) == ["d10", "d11", "d12", "d13"]


def test_recorded_drafts_with_a_critic(trained, tmp_path):
    trained.data.source, trained.data.eval_source = jsonl(tmp_path / "data.jsonl"), None
    trained.feedback.source, trained.draft.source = "critic", "recorded"
    trained.feedback.temperature, trained.score.method = 1.0, "embedding"
    ilf_jax.run(trained, tmp_path / "run")
    assert {row["source"] for row in rows(tmp_path / "run/iteration_001/draft")} == {"recorded"}
    feedback = rows(tmp_path / "run/iteration_001/feedback")
    assert {row["source"] for row in feedback} == {"critic"} and len({row["text"] for row in feedback}) > 1
    assert len(list((tmp_path / "run/iteration_001/feedback").glob("*.jsonl"))) == 3
    scores = np.array(list(by_id(tmp_path / "run/iteration_001/score", "scores").values()))
    assert scores.shape == (6, 2) and np.all(np.abs(scores) <= 1 + 1e-6) and len(np.unique(scores)) > 2


@pytest.mark.parametrize("target", ["reference", "human_refinement"])
def test_targets_from_the_data(trained, tmp_path, target):
    trained.data.source, trained.data.eval_source = jsonl(tmp_path / "data.jsonl"), None
    trained.finetune.target = target
    ilf_jax.run(trained, tmp_path / "run")
    assert names_in(tmp_path / "run/iteration_001") == {
        "finetune", "evaluate", "checkpoint", "examples.jsonl"}
    words = {"reference": "gem", "human_refinement": "star"}[target]
    assert by_id(tmp_path / "run/iteration_001/finetune", "completion") == {
        f"d{i}": f"Ada is a {words} {i}." for i in range(6)}


def test_early_stopping(trained, tmp_path):
    """A learning rate that harms: the params kept are those before training."""
    from test_resume import params

    trained.finetune.dev_fraction, trained.finetune.epochs, trained.finetune.patience = 0.34, 6, 2
    trained.finetune.learning_rate, trained.finetune.schedule = 3.0, "constant"
    metrics = ilf_jax.run(trained, tmp_path / "run")
    # 4 documents, 2 a step: two epochs without a better dev loss.
    assert value(metrics, 1, "finetune", "steps") == 2 * 2
    model = checkpoint_io.read_config(f"orbax:{tmp_path / 'run/iteration_001/checkpoint'}")
    base = checkpoint_io.random_params(model, trained.seed)
    saved = params(tmp_path / "run/iteration_001/checkpoint")
    assert len(saved) == len(jax.tree.leaves(base))
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        assert np.asarray(leaf).tobytes() == saved[jax.tree_util.keystr(path)].tobytes(), path
    assert len((tmp_path / "run/iteration_001/finetune/steps.jsonl").read_text().splitlines()) == value(
        metrics, 1, "finetune", "steps")
    trained.finetune.learning_rate, trained.finetune.epochs = 1e-3, 1
    metrics = ilf_jax.run(trained, tmp_path / "good")
    assert value(metrics, 1, "finetune", "steps") == 2
    assert params(tmp_path / "good/iteration_001/checkpoint")


def test_win_rate(trained, tmp_path):
    trained.evaluate.win_rate = True
    metrics = ilf_jax.run(trained, tmp_path / "run")
    rates = {m["metric"]: m for m in metrics if m["iteration"] == 1 and "win_rate" in m["metric"]}
    assert 0 <= rates["win_rate"]["value"] <= 1 and rates["win_rate"]["n"] == 4
    assert len(rates) == 2 and all(np.isfinite(m["value"]) for m in rates.values())
    assert not [m for m in metrics if m["iteration"] == 0 and "win_rate" in m["metric"]]


def test_chat_model(trained, tiny_run, tmp_path):
    """A tokenizer with a chat template: prompts are wrapped in it, completions follow without a space."""
    shutil.copytree(tiny_run[1] / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer/tokenizer_config.json"
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>>{% endif %}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    (path.parent / "digests.json").unlink()  # as the message says of a file that was changed on purpose
    trained.policy.tokenizer = f"hf:{tmp_path / 'tokenizer'}"
    ilf_jax.run(trained, tmp_path / "chat")
    assert by_id(tmp_path / "chat/iteration_001/draft", "text") != by_id(tiny_run[1] / "iteration_001/draft", "text")
    trained.policy.chat = trained.refiner.chat = trained.judge.chat = "never"
    ilf_jax.run(trained, tmp_path / "plain")
    for stage, key in (("draft", "text"), ("refine", "texts"), ("score", "scores")):
        assert (by_id(tmp_path / "plain/iteration_001" / stage, key)
                == by_id(tiny_run[1] / "iteration_001" / stage, key))


def test_no_evaluation(trained, tmp_path):
    trained.data.eval_size = 0
    metrics = ilf_jax.run(trained, tmp_path / "run")
    assert not (tmp_path / "run/iteration_000").exists() and (tmp_path / "run/iteration_001/checkpoint").exists()
    assert not [m for m in metrics if m["stage"] == "evaluate"]


def test_one_document_one_candidate(trained, tmp_path):
    trained.data.train_size = trained.data.eval_size = trained.refine.num_candidates = 1
    trained.evaluate.win_rate, trained.finetune.dev_fraction = True, 0.5
    metrics = ilf_jax.run(trained, tmp_path / "run")
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line, line
    assert value(metrics, 1, "finetune", "steps") == 1


def test_a_plain_mapping_is_a_config(tiny_run, trained, tmp_path):
    metrics = ilf_jax.run(json.loads(trained.to_json()), str(tmp_path / "run"))
    assert metrics[-1]["iteration"] == 1 and metrics[-1]["stage"] == "evaluate"
    assert by_id(tmp_path / "run/iteration_001/draft", "text") == by_id(tiny_run[1] / "iteration_001/draft", "text")


def test_weighted_objective_learns_from_all_candidates(trained, tmp_path):
    trained.finetune.objective, trained.finetune.beta = "weighted", 3.0
    trained.iterations = 1
    ilf_jax.run(trained, tmp_path / "run")
    by_document = {}
    for row in rows(tmp_path / "run/iteration_001/finetune"):
        by_document.setdefault(row["id"], []).append(row["weight"])
    assert by_document
    # A document whose candidates are in part empty texts keeps the weights of the rest.
    assert all(0 < sum(weights) <= 1 + 1e-9 for weights in by_document.values())
    assert any(len(weights) == 2 and weights[0] != weights[1] for weights in by_document.values())


def test_weighted_objective_needs_refinements(trained, tmp_path):
    trained.finetune.objective, trained.finetune.target = "weighted", "initial"
    with pytest.raises(ilf_jax.InputError, match=r"objective='weighted' .*target='initial'"):
        ilf_jax.run(trained, tmp_path / "run")


def test_the_tree_layout_s_agreement_with_the_paper_s_is_measured(trained, tmp_path):
    """Against a whole run in the other layout: same drafts, feedback and candidates, other questions."""
    metrics = {}
    for layout in ("tree", "paper"):
        trained.score.prompts = layout
        metrics[layout] = ilf_jax.run(trained, tmp_path / layout)
    tree, paper = (rows(tmp_path / layout / "iteration_001/score") for layout in ("tree", "paper"))
    same = [a["chosen"] == {row["id"]: row["chosen"] for row in paper}[a["id"]] for a in tree]
    assert value(metrics["tree"], 1, "score", "same_pick_as_paper_layout") == pytest.approx(np.mean(same))
    scores = {row["id"]: row["scores"] for row in paper}
    rho = [np.sign((a["scores"][0] - a["scores"][1]) * np.subtract(*scores[a["id"]])) for a in tree]  # two candidates
    assert value(metrics["tree"], 1, "score", "rank_correlation_with_paper_layout") == pytest.approx(np.mean(rho))
    assert not [m for m in metrics["paper"] if "paper_layout" in m["metric"]]


def test_refined_without_feedback(tiny_config, tmp_path):
    tiny_config.feedback.source = "none"
    with pytest.raises(InputError, match=r"config\.feedback\.source='none'.*config\.score\.method='instruct_rm'"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    tiny_config.score.method = "random"
    ilf_jax.run(tiny_config, tmp_path / "run")
    assert {row["text"] for row in rows(tmp_path / "run/iteration_001/feedback")} == {""}


def test_picks_are_judged_against_the_draft(tiny_config, tmp_path):
    tiny_config.score.win_rate = True
    ilf_jax.run(tiny_config, tmp_path / "run")
    folder = tmp_path / "run/iteration_001"
    found = {m["metric"]: m for m in json.loads((folder / "score/manifest.json").read_text())["metrics"]}
    names = {"chosen", "random", "longest", "first", *(f"prompt_{i}" for i in range(1, 6))}
    assert {f"win_rate_{name}" for name in names} <= set(found)
    assert all(0 <= found[f"win_rate_{name}"]["value"] <= 1 and found[f"win_rate_{name}"]["n"] == 6 for name in names)


def test_feedback_incorporated_by_hand(tiny_config, tmp_path):
    tiny_config.policy.checkpoint, tiny_config.policy.tokenizer = "builtin:word_removal_1m", None
    for section in (tiny_config.draft, tiny_config.refine):
        section.max_new_tokens = 32
    metrics = ilf_jax.run(tiny_config, tmp_path / "run")
    folder = tmp_path / "run/iteration_001"
    said = {row["id"]: word_removal.named_words(row["text"]) for row in rows(folder / "feedback")}
    drawn = {row["id"]: row["texts"] for row in rows(folder / "refine")}
    taken_in = [not any(word in drawn[row["id"]][row["chosen"]] for word in said[row["id"]])
                for row in rows(folder / "score")]
    assert value(metrics, 1, "score", "feedback_incorporated_chosen") == np.mean(taken_in)


def test_numbers_by_group_of_documents(tiny_config, tmp_path):
    lines = [{"document": f"Ada the {job}", "reference": "Ada is a gem.", "group": "jobs" if i % 2 else "arts"}
             for i, job in enumerate(("baker", "poet", "miller", "singer", "guard", "dancer", "coach", "cook"))]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    c = tiny_config
    c.data.source, c.data.eval_source, c.data.train_size, c.data.eval_size = f"jsonl:{path}", None, 4, 4
    c.data.fields.group = "group"
    c.finetune.target, c.evaluate.exact_match = "reference", True
    found = {m["metric"]: m for m in ilf_jax.run(c, tmp_path / "run") if m["iteration"] == 1}
    for name in ("insult_rate", "rouge_l", "exact_match"):
        both = [found[f"{name}[{group}]"] for group in ("arts", "jobs")]
        assert [m["n"] for m in both] == [2, 2]
        assert found[name]["value"] == pytest.approx(np.mean([m["value"] for m in both]))


def test_likelihood_of_what_is_imitated_before_training(tiny_config, tmp_path):
    tiny_config.evaluate.target_nll, tiny_config.baselines = True, ("initial",)
    ilf_jax.run(tiny_config, tmp_path / "run")
    found = {}
    for folder in (tmp_path / "run", tmp_path / "run/baselines/initial"):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[folder.name] = [m for m in lines if m["metric"] == "target_nll_before_training"]
    assert [len(rows) for rows in found.values()] == [1, 1] and found["run"][0]["value"] > 0
    assert found["run"][0]["value"] != found["initial"][0]["value"]
