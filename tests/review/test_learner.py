"""The learner at hand: refinements are the refine stage's, colours those of a computation by hand."""

import statistics
import time

import numpy as np
import pytest
from conftest import make_tiny_config

import ilf_jax
from ilf_jax.errors import WaitingError
from ilf_jax.models import transformer
from ilf_jax.records import Candidates, Example
from ilf_jax.review.entries import Form
from ilf_jax.review.learner import Learner
from ilf_jax.review.rounds import of_run
from ilf_jax.review.store import Store
from ilf_jax.runtime import performance
from ilf_jax.runtime.stage_folder import StageFolder

pytestmark = pytest.mark.usefixtures("quick_compiles")
FEEDBACK = "Remove the insult."


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, quick_compiles):
    """(config, folder, items, learner) of a run that waits."""
    config = make_tiny_config()
    config.feedback.source = "human"
    config.data.train_size = 3
    config.refine.num_candidates, config.refine.redraw = 3, False
    folder = tmp_path_factory.mktemp("waiting") / "run"
    with pytest.raises(WaitingError):
        ilf_jax.run(config, folder)
    store = Store(folder / "review" / "review.sqlite", Form())
    round_ = of_run(folder)
    round_.enter(store)
    items = store.items()
    store.close()
    return config, folder, items, Learner(round_.run)


def log_probabilities(lm, prompt_ids, ids):
    """By hand, in float64: softmax of hidden states times the embedding, without padding."""
    row = np.array([[*prompt_ids, *ids]])
    hidden = np.asarray(transformer.forward(lm.architecture, lm.params, row))[0].astype(np.float64)
    table = np.asarray(lm.params["embedding" if lm.architecture.tied_embeddings else "unembedding"], np.float64)
    logits = hidden[len(prompt_ids) - 1 : -1] @ table.T
    logits -= logits.max(-1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(len(ids)), ids]


def test_colors_are_those_of_a_computation_by_hand(waiting):
    _, _, items, learner = waiting
    item = max(items, key=lambda i: len(i.draft))
    found = learner.colors(item, FEEDBACK)
    lm, example = learner._policy, Example(item.key, item.document, item.title)
    texts = [learner._task.policy_prompt(example), learner._task.refine_prompt(example, "", FEEDBACK)]
    assert FEEDBACK in texts[1].text and FEEDBACK not in texts[0].text and item.draft not in texts[0].text
    plain, told = (lm.encode(item.key, [text], 0)[0] for text in texts)
    ids = lm.continuation(plain, item.draft)
    by_hand = log_probabilities(lm, told.ids, ids) - log_probabilities(lm, plain.ids, ids)
    np.testing.assert_allclose(found.values, by_hand, atol=1e-4)
    assert "".join(found.tokens) == item.draft and len(found.tokens) == len(found.values) == len(ids)
    assert found.mean == pytest.approx(by_hand.mean(), abs=1e-4) and np.abs(by_hand).max() > 1e-3


def test_refinements_are_those_of_the_stage(waiting):
    config, folder, items, learner = waiting
    learner.warm_up(items)
    drawn, first, meter = {}, [], performance.Meter()
    for item in items:
        start = time.monotonic()
        texts = learner.refinements(item, FEEDBACK)
        one = next(texts)
        first.append(time.monotonic() - start)
        drawn[item.key] = sorted([one, *texts])
    assert sorted(learner.refinements(items[0], FEEDBACK)) == drawn[items[0].key]
    assert all(len(texts) == 3 for texts in drawn.values())
    learner.colors(items[0], FEEDBACK)
    assert (meter.cost()["compilations"], meter.cost()["cache_hits"]) == (0, 0)  # the learner was warm
    print(f"\nmedian time to the first refinement: {statistics.median(first):.2f} s")
    path = folder / "iteration_001/feedback/to_review.jsonl"
    path.write_text(path.read_text().replace('"feedback": ""', f'"feedback": "{FEEDBACK}"'))
    ilf_jax.run(config, folder)
    stage = StageFolder(folder / "iteration_001/refine", {}).read(Candidates)
    assert {i: sorted(row.texts) for i, row in stage.items()} == drawn
    assert of_run(folder) is None


def test_gain_is_the_mean_share_of_words_in_which_refinements_differ(waiting, monkeypatch):
    _, _, items, learner = waiting
    assert 0 <= learner.gain(items[0]) <= 1
    texts = ["Ada bakes", "Ada bakes", "Ada sings"]  # of three pairs, two share one word of two
    monkeypatch.setattr(Learner, "refinements", lambda self, item, comment: iter(texts))
    assert learner.gain(items[0]) == pytest.approx(1 / 3)
