"""Every file in configs/ is read as it stands, and runs, made small."""

import importlib.util
import json
import pathlib

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import registry
from ilf_jax.dry_run import dry_run
from ilf_jax.errors import InputError
from ilf_jax.reporting import methods, workfolder
from ilf_jax.runtime import stage_folder
from ilf_jax.sweeps import config_files, grid
from ilf_jax.tasks import word_removal

pytestmark = pytest.mark.usefixtures("quick_compiles")

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(str(p.relative_to(FOLDER)) for p in FOLDER.glob("*.py"))


def load(name, *args):
    spec = importlib.util.spec_from_file_location(f"configs_{name[:-3]}", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)


def shorten(c, tiny_run):
    """The tiny model, and as little as runs."""
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", f"hf:{tiny_run[1] / 'tokenizer'}"
    for part in (c.refiner, c.judge):
        part.checkpoint, part.tokenizer = "policy", None
    c.policy.max_prompt_length = c.refiner.max_prompt_length = c.judge.max_prompt_length = 440
    c.finetune.max_length = 512
    c.precision = "float32"
    for section in (c.draft, c.refine, c.evaluate):
        section.max_new_tokens, section.batch_size = 8, 2
    c.refine.num_candidates = 2
    c.score.batch_size = 3
    c.finetune.batch_size, c.finetune.remat = 2, "none"
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = -1, 1, 1
    return c


def test_there_are_configs():
    assert {"quickstart.py", "template.py", "summarize_smollm2.py", "tldr_5k.py"} <= set(NAMES)


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_is_read(name):
    c = load(name)
    config = config_lib.read(c)
    names = set(config_lib.key_names())

    def keys(tree, prefix=""):
        for key, value in tree.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")

    # What baselines override has names of its own.
    assert {key for key in keys(c.to_dict()) if not key.startswith("baselines.")} == names
    assert config_lib.read(config_lib.to_dict(config)) == config
    assert config != config_lib.read(ilf_jax.base_config())
    assert f"--config=configs/{name}" in (FOLDER / name).read_text() or "bash launch/" in (FOLDER / name).read_text()


@pytest.mark.parametrize(
    "name", ["template.py", "tldr_5k.py", "quickstart.py", "summarize_smollm2.py", "own_reward.py", "llama_8b_lora.py"])
def test_refiner_and_judge_follow_the_policy(name):
    c = load(name)
    assert c.policy.checkpoint == c.refiner.checkpoint == c.judge.checkpoint
    c.policy.checkpoint = "init:tiny"
    config = config_lib.read(c)
    assert (config.refiner.checkpoint, config.judge.checkpoint) == ("init:tiny", "init:tiny")
    c.judge.checkpoint = "hf:judge"  # one model of its own leaves the others alone
    c.policy.checkpoint = "hf:policy"
    config = config_lib.read(c)
    assert config.policy.checkpoint == config.refiner.checkpoint == "hf:policy"
    assert config.judge.checkpoint == "hf:judge"


@pytest.mark.parametrize(("n", "rate", "prompt_weight"), [(100, 5e-6, 0.0), (1000, 2e-6, 0.0), (5000, 2e-5, 0.1)])
def test_tldr_sizes(n, rate, prompt_weight):
    config = config_lib.read(load("tldr_5k.py", f"n={n}"))
    assert config.data.train_size == n
    assert (config.finetune.learning_rate, config.finetune.prompt_loss_weight) == (rate, prompt_weight)


@pytest.mark.parametrize("arg", ["n=7", "n=", "size=100", "100", "n=1e3"])
def test_tldr_refuses_other_arguments(arg, tmp_path, capsys):
    from conftest import main_with_flags

    with pytest.raises(InputError, match="allowed are n=100, n=1000, n=5000"):
        load("tldr_5k.py", arg)
    code, error = main_with_flags(capsys, f"--config={FOLDER / 'tldr_5k.py'}:{arg}", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "allowed are n=100, n=1000, n=5000" in error
    assert not (tmp_path / "run").exists()


def completed(folder, stages):
    found = {p.parent.name for p in (folder / "iteration_001").glob("*/manifest.json")
             if json.loads(p.read_text())["complete"]}
    assert found == {*stages, "finetune", "evaluate"}
    assert (folder / "report.html").exists() and (folder / "iteration_001/checkpoint/model.json").exists()


ALL = ("draft", "feedback", "refine", "score")


def test_quickstart(tiny_run, tmp_path):
    c = shorten(load("quickstart.py"), tiny_run)
    c.iterations, c.data.train_size, c.data.eval_size, c.baselines = 1, 6, 4, ("initial",)
    ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)


def small_methods(task, tiny_run):
    """configs/methods.py on the tiny model: a handful of documents, one iteration."""
    c = shorten(load("methods.py", task), tiny_run)
    c.reward_model.checkpoint, c.reward_model.tokenizer = "init:tiny", c.policy.tokenizer
    c.reward_model.max_prompt_length = 440
    c.iterations, c.data.train_size, c.data.eval_size, c.evaluate.kl_max_new_tokens = 1, 4, 4, 8
    c.finetune.accumulation, c.draft.batch_size, c.evaluate.batch_size, c.refine.batch_size = 1, 4, 4, 4
    return c


METHODS = {"ILF", "drafts", "grpo", *(f"{name}{control}" for control in ("", "-shuffled") for name in (
    "weighted", "dpo", "fcp", "sdpo", "sdft", "rltf_sd", "feedback_modelling")), "ILF-shuffled"}


def test_methods(tiny_run, tmp_path):
    """Every method and its control; what they share is drawn once."""
    c = small_methods("word_removal", tiny_run)
    ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    table = methods.rows([workfolder.read(tmp_path / "run")])
    assert {row.label for row in table} == METHODS
    controlled = {row.label for row in table if row.minus_control is not None}
    assert {f"{label}-shuffled" for label in controlled} == {name for name in METHODS if name.endswith("-shuffled")}
    assert all(row.tokens and row.kl and row.value for row in table)
    own = {}  # stage -> the folders that hold records of their own
    for path in (tmp_path / "run").glob("**/iteration_001/*/manifest.json"):
        if stage_folder.RECORDS_IN not in json.loads(path.read_text()):
            own.setdefault(path.parent.name, set()).add(path.parents[2].name)
    assert own["draft"] == {"run"} and own["feedback"] == {"run", "ILF-shuffled"}
    assert own["refine"] == own["score"] == {"run", "ILF-shuffled", "grpo"}


def test_methods_on_a_text_of_one_s_own(tiny_run, tmp_path):
    """Read, checked, and as far as the data are concerned; each method itself has run above."""
    c = small_methods("summarize", tiny_run)
    lines = [{"article": f"Long article {i}. " * 10, "candidate": f"Short {i}.",
              "feedback": {"explanation": f"Wrong number {i}.", "summary": f"Better {i}."}} for i in range(9)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source = f"jsonl:{tmp_path / 'reviews.jsonl'}"
    c.baselines = {name: c.baselines[name] for name in ("fcp", "sdpo-shuffled", "rltf_sd")}
    found = {(m["stage"], m["metric"]) for m in ilf_jax.run(c, tmp_path / "run")}
    assert {("evaluate", "nll_human_refinement"), ("score", "score_draft"), ("finetune", "tokens_trained")} <= found


@pytest.fixture
def articles(tmp_path):
    """A file of articles with references, as configs/informed_feedback.py wants them."""
    lines = [{"article": f"The council of Ashby opened bridge {i} today. It cost {i} million pounds, and rain fell.",
              "abstract": f"Bridge {i} opened today."} for i in range(9)]
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "articles.jsonl"


def test_informed_feedback(tiny_run, tmp_path, articles, monkeypatch):
    """One cell of its sweep: feedback names what document and reference share, and the control another document's."""
    monkeypatch.chdir(FOLDER.parent)
    sweep = grid.load(f"configs/sweeps/informed_feedback.py:{articles},article,abstract")
    _, overrides = grid.overrides(sweep, sweep.cells[0])
    c = shorten(load("informed_feedback.py"), tiny_run)
    c.finetune.accumulation, c.data.train_size, c.data.eval_size = 1, 4, 4
    c.unlock()
    c.update_from_flattened_dict(overrides)
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    assert set(sweep.metrics) <= {f"{m['stage']}/{m['metric']}" for m in metrics}
    for folder, own in ((tmp_path / "run", True), (tmp_path / "run/baselines/ILF-shuffled", False)):
        shards = (folder / "iteration_001/feedback").glob("0*.jsonl")
        rows = [json.loads(line) for path in shards for line in path.open()]
        assert len(rows) == 4
        for row in rows:
            number = int(row["id"].removeprefix("row-")) - 1
            assert (row["text"] == f'The summary should mention "bridge {number}", "opened", "today".') == own


def test_what_the_reward_of_informed_feedback_counts(articles):
    module = registry.load_file(str(FOLDER / "informed_feedback.py"))
    document, feedback = "Rain fell on Ashby today.", 'The summary should mention "rain", "ashby".'

    def reward(text):
        return module.taken_in(document, "", feedback, text)

    assert reward("Rain fell on Ashby.") == 1
    assert reward("Rain fell.") == 0.5
    assert reward("Rain fell on Paris.") == 0.5 - 1 / 4  # one of four words is made up
    assert reward('The summary should mention "rain", "ashby".') == -1  # an echo


def test_informed_feedback_wants_references(tiny_run, tmp_path, articles):
    c = shorten(load("informed_feedback.py"), tiny_run)
    c.data.source, c.data.fields.document, c.data.train_size, c.data.eval_size = f"jsonl:{articles}", "article", 4, 4
    c.baselines = None
    with pytest.raises(InputError, match=r"document 'row-00000\d' has no reference; .*config\.data\.fields\.reference"):
        ilf_jax.run(c, tmp_path / "run")
    assert not (tmp_path / "run/iteration_000").exists()


@pytest.mark.parametrize("arg", ["articles.jsonl", "articles.jsonl,article"])
def test_the_sweep_of_informed_feedback_refuses_other_arguments(arg):
    with pytest.raises(InputError, match="expected FILE,DOCUMENT_FIELD,REFERENCE_FIELD"):
        grid.load(f"{FOLDER}/sweeps/informed_feedback.py:{arg}")


def test_methods_refuses_other_arguments():
    with pytest.raises(InputError, match="allowed are word_removal and summarize"):
        load("methods.py", "tldr")


def test_pretraining(tmp_path):
    c = load("pretrain_word_removal.py")
    c.policy.checkpoint, c.policy.tokenizer = "init:tiny", "train:512"
    c.data.source = c.data.eval_source = "builtin:word_removal_pretraining:16"
    c.data.eval_size, c.finetune.batch_size, c.evaluate.max_new_tokens, c.evaluate.batch_size = 4, 4, 8, 2
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ())
    losses = [m["value"] for m in metrics if m["metric"] == "nll_reference"]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_template(tiny_run, tmp_path):
    c = shorten(load("template.py"), tiny_run)
    lines = [{"question": f"How old is number {i}?", "answer": f"It is {i}.", "comment": f"Say years, {i}.",
              "better_answer": f"It is {i} years old."} for i in range(10)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source, c.data.eval_size = f"jsonl:{tmp_path / 'reviews.jsonl'}", 4
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    assert "nll_human_refinement" in {m["metric"] for m in metrics}
    draft = json.loads((tmp_path / "run/iteration_001/draft/00000-of-00001.jsonl").read_text().splitlines()[2])
    assert draft["text"] == "It is 2."


def test_summarize(tiny_run, tmp_path):
    c = shorten(load("summarize_smollm2.py"), tiny_run)
    lines = [{"article": f"Long article {i}. " * 30, "candidate": f"Short {i}.", "abstract": f"Right {i}.",
              "feedback": {"explanation": f"Wrong number {i}.", "summary": f"Better {i}."} if i != 3 else None}
             for i in range(11)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source = f"jsonl:{tmp_path / 'reviews.jsonl'}"
    c.data.train_size, c.data.eval_size = 6, 4
    c.data.fields.reference = "abstract"
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    assert {"nll_human_refinement", "nll_reference", "rouge_l"} <= {m["metric"] for m in metrics}
    assert "row-000004" not in (tmp_path / "run/iteration_001/examples.jsonl").read_text()  # the row without feedback


def test_summarize_the_sample(tiny_run, tmp_path):
    c = shorten(load("summarize_smollm2.py", "sample"), tiny_run)
    c.data.train_size, c.data.eval_size = 4, 2
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    assert "nll_human_refinement" in {m["metric"] for m in metrics}
    shard = min((tmp_path / "run/iteration_001/draft").glob("0*.jsonl"))
    assert json.loads(shard.read_text().splitlines()[0])["text"].startswith("The library on Mill Street will close")


def test_llama_8b_lora_is_dry_run(tiny_run, tmp_path, capsys):
    """Made small, for the checkpoint is a download: the stages, LoRA and a bfloat16 base compile, and fit."""
    c = shorten(load("llama_8b_lora.py"), tiny_run)
    assert config_lib.read(load("llama_8b_lora.py")).policy.checkpoint == "hf:meta-llama/Llama-3.1-8B-Instruct"
    c.precision, c.layers = "bfloat16", "scan"
    c.finetune.accumulation = 1
    lines = [{"article": f"Long article {i}. " * 30, "candidate": f"Short {i}.",
              "feedback": {"explanation": f"Wrong number {i}.", "summary": f"Better {i}."}} for i in range(11)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source, c.data.eval_size = f"jsonl:{tmp_path / 'reviews.jsonl'}", 4
    assert dry_run.dry_run(config_lib.read(c)) == 0
    said = capsys.readouterr().out
    assert "config.precision=bfloat16" in said and "draft -> feedback -> refine -> score -> finetune" in said


def test_tldr(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    c = shorten(load("tldr_5k.py", "n=100"), tiny_run)
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 6), ("test", 4)):
        lines = [{"id": f"{split}{i}", "title": f"Title {i}", "post": f"Post number {i}.", "feedback": f"Say {i}.",
                  "generated_summary_for_feedback": f"Draft {i}", "ideal_human_summary": f"Ideal {i}",
                  "tldr_human_reference_summary": f"Human {i}", "has_additional_feedback": False} for i in range(count)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.folder, c.data.train_size, c.data.eval_size = str(data), 6, 4
    metrics = ilf_jax.run(c, tmp_path / "run")
    completed(tmp_path / "run", ALL)
    assert {"win_rate", "nll_human_refinement", "nll_reference"} <= {
        m["metric"] for m in metrics if m["iteration"] == 1}


def test_tldr_without_data_stops_before_anything(tmp_path, monkeypatch):
    c = load("tldr_5k.py")
    c.policy.checkpoint = c.refiner.checkpoint = c.judge.checkpoint = "init:tiny"
    c.data.folder = str(tmp_path / "none")
    with pytest.raises(InputError, match="none"):
        ilf_jax.run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted((FOLDER / "sweeps").glob("*.py")), ids=lambda path: path.name)
def test_every_cell_of_a_sweep_has_a_good_configuration(path, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)  # sweeps name config files as the README's commands do
    sweep = grid.load(str(path))
    configs = [grid.config_of(sweep, cell) for cell in sweep.cells]
    assert len({json.dumps(config_lib.to_dict(c)) for c in configs}) == len(configs)


def test_reward_model(tmp_path):
    c = load("reward_model.py", "scalar")
    c.data.eval_size, c.evaluate.batch_size, c.evaluate.max_new_tokens = 3, 128, 16
    c.reward.source = c.reward.eval_source = "builtin:word_removal_comparisons:32"
    c.reward.eval_size, c.reward.epochs = 4, 1
    metrics = {(m["stage"], m["metric"]) for m in ilf_jax.run(c, tmp_path / "run")}
    assert {("reward", "accuracy"), ("reward", "calibration_error"), ("best_of_n", "insult_rate"),
            ("evaluate", "insult_rate")} <= metrics
    lines = [line for path in (tmp_path / "run/iteration_000/best_of_n").glob("0*.jsonl") for line in path.open()]
    task = word_removal.WordRemoval()
    for best in map(json.loads, lines):
        usable = [r for r, text in zip(best["rewards"], best["texts"], strict=True) if task.is_usable(None, text)]
        assert len(best["texts"]) == 64 and best["rewards"][best["chosen"]] == max(usable or best["rewards"])
    assert len(lines) == 3


def test_comparison_on_real_text(tiny_run, tmp_path):
    c = shorten(load("summarize_smollm2.py", "compare"), tiny_run)
    lines = [{"article": f"Long article {i}. " * 30, "candidate": f"Short {i}.",
              "feedback": {"explanation": f"Wrong number {i}.", "summary": f"Better {i}."}} for i in range(9)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c.data.source, c.data.train_size, c.data.eval_size = f"jsonl:{tmp_path / 'reviews.jsonl'}", 5, 4
    found = {(m["stage"], m["metric"]): m["value"] for m in ilf_jax.run(c, tmp_path / "run")}
    assert {("rank", f"win_rate[{name}]") for name in
            ("before_training", "refinement", "initial", "human_refinement", "human_refinements")} <= set(found)
    assert ("finetune", "target_nll_before_training") in found and ("evaluate", "kl_policy_base") in found


def test_the_scaling_sweep_s_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    sweep = grid.load("configs/sweeps/word_removal_scaling.py")
    path, overrides = grid.overrides(sweep, sweep.cells[0])
    overrides |= {"data.source": "builtin:word_removal_pretraining:16", "policy.checkpoint": "init:tiny",
                  "policy.tokenizer": "train:512", "data.eval_source": "builtin:word_removal_controlled:1",
                  "evaluate.max_new_tokens": 8}
    metrics = ilf_jax.run(config_files.from_file(path, overrides), tmp_path / "run")
    found = {f"{m['stage']}/{m['metric']}" for m in metrics}
    assert set(sweep.metrics) <= found


def test_the_data_sweep_s_cells_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    sweep = grid.load("configs/sweeps/word_removal_data.py")
    small = {"data.train_size": 4, "reward.train_size": 16, "reward.eval_size": 4, "data.eval_size": 4,
             "evaluate.max_new_tokens": 8, "refine.num_candidates": 2, "refine.max_new_tokens": 8,
             "draft.max_new_tokens": 8, "reward.epochs": 1}
    found = set()
    for cell in (sweep.cells[0], sweep.cells[-1]):  # ILF with a reward model, and the best of N alone
        path, overrides = grid.overrides(sweep, cell)
        config = config_files.from_file(path, {**overrides, **small})
        metrics = ilf_jax.run(config, tmp_path / grid.name(cell))
        found |= {f"{m['stage']}/{m['metric']}" for m in metrics}
    assert set(sweep.metrics) <= found
