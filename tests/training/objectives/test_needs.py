"""What objectives ask of configuration and data, before any work; what they leave out, and count."""

import dataclasses
import json

import cases
import numpy as np
import pytest

from ilf_jax import config as config_lib
from ilf_jax import preflight
from ilf_jax import tasks as tasks_lib
from ilf_jax.data import documents as documents_lib
from ilf_jax.errors import InputError
from ilf_jax.records import Draft
from ilf_jax.stages import finetune
from ilf_jax.training import objectives, packing
from ilf_jax.training.objectives import LearnedFrom, dpo, grpo

pytestmark = pytest.mark.fast
FRESH = {"refine.source": "policy", "score.method": "reward_model", "reward_model.checkpoint": "init:tiny"}


def config_with(tiny_config, objective, changes):
    return config_lib.read({**tiny_config.to_dict(), "finetune.objective": objective, **changes})


@pytest.mark.parametrize(("objective", "changes", "words"), [
    ("dpo", {"finetune.beta": 0.0}, ["finetune.beta=0", "dpo"]),
    ("dpo", {"finetune.target": "initial"}, ["target='initial'", "draft to itself"]),
    ("dpo", {"finetune.rejected": "worst", "finetune.target": "initial"}, ["rejected='worst'", "target='refinement'"]),
    ("dpo", {"finetune.rejected": "worst", "refine.num_candidates": 1}, ["num_candidates=1"]),
    ("dpo", FRESH, ["rejected='draft'", "refine.source='policy'"]),
    ("dpo", {"finetune.prompt_loss_weight": 0.1}, ["prompt_loss_weight=0.1", "'dpo'"]),
    ("dpo", {"finetune.label_smoothing": 0.5}, ["label_smoothing"]),
    ("dpo", {"data.fields.preferred": "choice"}, ["data.fields.preferred", "='human_refinement'", "'refinement'"]),
    ("sdpo", {"finetune.teacher_top_k": 4096}, ["teacher_top_k=4096", "vocabulary of"]),
    ("sdft", {"finetune.teacher": "none"}, ["finetune.teacher", "'frozen'"]),
    ("rltf_sd", {}, ["score.draft=True"]),
    ("rltf_sd", {"score.draft": True, "finetune.target": "initial"}, ["target='refinement'"]),
    ("grpo", {}, ["refine.source='policy'"]),
    ("grpo", {**FRESH, "refine.num_candidates": 1}, ["num_candidates=1", "2 or more"]),
    ("grpo", {**FRESH, "iterations": 2}, ["init='previous'", "data='new'"]),
    ("grpo", {**FRESH, "score.method": "instruct_rm"}, ["score.method='instruct_rm'", "fresh drafts"]),
    ("grpo", {**FRESH, "score.win_rate": True}, ["score.win_rate", "fresh drafts"]),
    ("feedback_modelling", {"feedback.source": "none", "score.method": "random"}, ["feedback_modelling", "words"]),
    ("fcpp", {}, ["did you mean 'fcp'"]),
])
def test_what_does_not_go_together_is_refused_before_any_work(tiny_config, objective, changes, words):
    with pytest.raises(InputError) as error:
        config = config_with(tiny_config, objective, changes)
        preflight.check_sources(config, tasks_lib.make_task(config))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("changes", "missing"), [
    ({"finetune.target": "human_refinement", "draft.source": "recorded"}, "human_refinement"),
    ({"draft.source": "recorded"}, "draft"),
    ({"feedback.source": "recorded"}, "feedback"),
])
def test_what_the_data_lack_is_named_with_its_key(tiny_config, tmp_path, changes, missing):
    row = {"document": "Ann", "draft": "A draft.", "feedback": "A comment.", "human_refinement": "Better."}
    del row[missing]
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    config = config_with(tiny_config, "dpo", {
        "data.source": f"jsonl:{tmp_path / 'data.jsonl'}", "data.eval_source": None, "data.eval_size": 2, **changes})
    task = tasks_lib.make_task(config)
    preflight.check_sources(config, task)
    with pytest.raises(InputError, match=rf"config\.data\.fields\.{missing}"):
        preflight.check_documents(config, task, documents_lib.load_documents(config))


def test_pairs_of_equal_texts_are_left_out_and_counted():
    documents = cases.documents()
    documents[2] = dataclasses.replace(documents[2], text=documents[2].draft.text)
    settings = dataclasses.replace(cases.SETTINGS, objective="dpo")
    targets, counts = finetune._targets(settings, documents)
    assert len(targets) == cases.COUNT - 1 and counts == {dpo.SAME: 1}
    assert "2" not in {t.id for t in targets}


def test_the_best_candidate_over_the_worst():
    document = next(d for d in cases.documents() if np.argmin(d.scored.scores) != d.scored.chosen)
    settings = dataclasses.replace(cases.SETTINGS, rejected="worst")
    (target,) = objectives.by_choice("dpo").targets(document, settings)
    assert target.rejected == document.candidates.texts[int(np.argmin(document.scored.scores))]


def test_groups_of_equal_rewards_have_no_advantage_and_are_counted():
    (document, *others) = cases.documents()
    document = dataclasses.replace(document, scored=dataclasses.replace(document.scored, scores=[0.3] * 3))
    settings = dataclasses.replace(cases.SETTINGS, objective="grpo")
    targets, counts = finetune._targets(settings, [document, *others])
    assert [t.advantage for t in targets[:3]] == [0.0] * 3 and counts == {grpo.EQUAL: 1}
    assert np.mean([t.advantage for t in targets[3:6]]) == pytest.approx(0, abs=1e-9)


def test_of_drafts_that_were_cut_the_end_is_not_learned():
    (document, *_) = cases.documents()
    candidates = dataclasses.replace(document.candidates, stopped=[True, False, True])
    cut = dataclasses.replace(document, candidates=candidates)
    cls = objectives.by_choice("grpo")
    targets = cls.targets(cut, cases.SETTINGS)
    assert [t.ended for t in targets] == [True, False, True]

    def encode(texts, context="policy"):
        return [packing.training_example([1, 2], cases.ids(text), cases.END, prompt_weight=0.0) for text in texts]

    made = [cls.training_example(target, encode) for target in targets]
    assert [e.num_targets - len(t.completion) for e, t in zip(made, targets, strict=True)] == [1, 0, 1]
    assert cases.END not in made[1].tokens and all(e.weights.sum() == pytest.approx(1) for e in made)


def test_without_feedback_a_teacher_has_nothing_to_say():
    (document, *_) = cases.documents()
    empty = dataclasses.replace(document, feedback=dataclasses.replace(document.feedback, text=" "))
    for name in ("sdpo", "feedback_modelling"):
        assert objectives.by_choice(name).targets(document, cases.SETTINGS)
        assert objectives.by_choice(name).targets(empty, cases.SETTINGS) == []


def test_feedback_is_learned_once_a_document_whatever_else_it_teaches():
    settings = dataclasses.replace(cases.SETTINGS, objective="weighted", feedback_weight=0.5)
    targets, _ = finetune._targets(settings, cases.documents())
    assert len(targets) > cases.COUNT
    assert [bool(t.feedback) for t in targets].count(True) == cases.COUNT


def test_equal_objectives_compile_once():
    for name in ("dpo", "sdpo", "grpo", "nll"):
        settings = dataclasses.replace(cases.SETTINGS, feedback_weight=0.5, teacher="ema")
        a, b = (cases.objective_of(name, settings) for _ in range(2))
        assert a == b and hash(a) == hash(b)
        assert a != cases.objective_of(name, dataclasses.replace(settings, feedback_weight=0.25))


def test_a_reviewers_refinement_is_learned_alone_or_counted():
    (document, *_) = cases.documents()
    given = dataclasses.replace(document, text="better", source="refinement: reviewer", overruled=True)
    weighted, rltf_sd = objectives.by_choice("weighted"), objectives.by_choice("rltf_sd")
    (target,) = weighted.targets(given, cases.SETTINGS)
    assert (target.completion, target.weight, target.source) == ("better", 1.0, "refinement: reviewer")
    assert len(weighted.targets(document, cases.SETTINGS)) == 3
    assert "better" not in {t.completion for t in rltf_sd.targets(given, cases.SETTINGS)}
    assert rltf_sd.counted(given, cases.SETTINGS) == "reviewers_refinement_has_no_reward"
    assert rltf_sd.counted(document, cases.SETTINGS) is None


COMPARED = {"data.fields.preferred": "choice", "data.sides": ("left", "right"), "finetune.target": "human_refinement",
            "draft.source": "recorded", "feedback.source": "oracle", "finetune.objective": "dpo"}


def test_dpo_learns_from_recorded_comparisons(tiny_config, tmp_path):
    rows = [{"document": f"Ann {i}", "first": f"One {i}.", "second": f"Two {i}." if i else "One 0.",
             "choice": ("left", "right")[i % 2]} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_with(tiny_config, "dpo", {**COMPARED, "data.source": f"jsonl:{tmp_path / 'pairs.jsonl'}",
                                              "data.eval_source": None, "data.train_size": 4, "data.eval_size": 2})
    task, loaded = tasks_lib.make_task(config), documents_lib.load_documents(config)
    preflight.check_sources(config, task)
    preflight.check_documents(config, task, loaded)
    learned = [LearnedFrom(e, "Prompt", e.human_refinement, "human_refinement", Draft(e.id, e.draft, "recorded"))
               for e in loaded.by_iteration[1]]
    pairs = [(t.completion, t.rejected) for one in learned for t in dpo.Dpo.targets(one, config.finetune)]
    assert pairs == [("Two 1.", "One 1."), ("One 2.", "Two 2."), ("Two 3.", "One 3.")]
    assert [dpo.Dpo.counted(one, config.finetune) for one in learned] == [dpo.SAME, None, None, None]
    assert config_lib.needed_stages(config) == ("draft",)
