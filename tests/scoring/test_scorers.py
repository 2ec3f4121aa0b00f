"""Scorers by hand: InstructRM over an ensemble, best of N, baselines, embeddings."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ilf_jax import config_sections
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.language_model import Branch, LanguageModel
from ilf_jax.models import transformer
from ilf_jax.models.architecture import small_shape
from ilf_jax.models.compute import FLOAT32
from ilf_jax.models.placement import Placement
from ilf_jax.records import Example
from ilf_jax.runtime import sharding
from ilf_jax.scoring import baselines, embedding, instruct_rm, selection
from ilf_jax.steps import score_step
from ilf_jax.tasks import word_removal
from ilf_jax.tokenizers.bpe_training import train_bpe
from ilf_jax.tokenizers.tokenizer import Tokenizer

forward = jax.jit(transformer.forward, static_argnums=0)
embed_step = jax.jit(score_step.embed_step, static_argnums=0)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [f"Is Ada {word}? Yes or No: Yes No True False Better text follows the feedback {word}."
             for word in word_removal.insults()]
    train_bpe(texts, 400, folder)
    tokenizer = Tokenizer.load(f"hf:{folder}")
    model = dataclasses.replace(small_shape(32, 1, 512), num_heads=4, num_kv_heads=2, head_dim=8)
    params = jax.tree.map(lambda a: 1.5 * a, transformer.init_params(model, jax.random.key(0)))
    placement = Placement(Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES), model)
    return LanguageModel(name="judge", settings=config_sections.Model(), architecture=model, params=params,
                         tokenizer=tokenizer, placement=placement, compute=FLOAT32)


def probability_by_hand(lm, text, answers):
    """softmax over the two answer tokens at the end of the whole prompt, in one full forward pass."""
    ids = lm.tokenizer.encode(text)
    row = np.zeros((1, 512), np.int32)
    row[0, : len(ids)] = ids
    hidden = np.asarray(forward(lm.architecture, lm.params, row))[0, len(ids) - 1].astype(np.float64)
    logits = hidden @ np.asarray(lm.params["embedding"], np.float64).T
    tokens = []
    for answer in answers:
        whole = lm.tokenizer.encode(f"{text} {answer}")
        assert whole[: len(ids)] == ids
        assert len(whole) == len(ids) + 1
        tokens.append(whole[-1])
    exp = np.exp(logits[tokens] - logits[tokens].max())
    return exp[0] / exp.sum()


@pytest.mark.versions
@pytest.mark.fast
def test_instruct_rm_equals_a_computation_by_hand(lm):
    task, example = word_removal.WordRemoval(), Example("1", "Ada the baker")
    draft, feedback = "Ada the baker is a fool, a gem and a goose.", "Remove a fool."
    texts = ["Ada the baker is a gem and a goose.", "Ada the baker is a gem.", draft, "Ada.", draft]
    questions = [task.judge_questions(example, draft, feedback, text) for text in texts]
    asked = answer_scoring.ask(lm, "1", questions)
    assert asked.exact
    assert len(asked.together.prefix) > 10  # the five prompts begin alike
    right = np.array([[probability_by_hand(lm, q.prompt.text, q.answers) for q in row] for row in questions])
    assert right.std() > 0.01
    for together in (False, True):
        (found,) = answer_scoring.start_scoring(lm, [asked], 2, answer_scoring.PromptLayout(together)).result()
        assert found.shape == (5, 5)
        np.testing.assert_allclose(found, right, atol=1e-5)
    np.testing.assert_allclose(instruct_rm.ensemble(found), right.mean(axis=1), atol=1e-5)
    assert found[2].tolist() == pytest.approx(found[4].tolist(), abs=1e-6)  # equal texts, equal scores


def asked_about(lm, names, texts):
    task = word_removal.WordRemoval()
    return [
        answer_scoring.ask(lm, name, [
            task.judge_questions(Example(name, name), f"{name} is a fool.", "Remove a fool.", f"{name} is {text}.")
            for text in texts])
        for name in names]


def test_layouts_give_the_same_answers_of_many_documents(lm):
    """Batches of three hold groups of several documents, the last one a short rest."""
    asked = asked_about(lm, ["Ada", "Bo the baker", "Cy", "Di of the long and winding road"], ["a gem", "a fool"])
    right = [answer_scoring.favourable_probabilities(lm, [one], 1)[0] for one in asked]
    assert np.ptp(right) > 1e-3
    layouts = (answer_scoring.PromptLayout(False), answer_scoring.PromptLayout(True),
               answer_scoring.choose_layout(lm, asked))
    for layout in layouts:
        found = answer_scoring.start_scoring(lm, asked, 3, layout).result()
        np.testing.assert_allclose(found, right, atol=1e-5)


def group(prefix, *branches):
    return answer_scoring.Group(np.zeros(prefix, np.int32), [
        Branch(np.zeros(n, np.int32), 0, (n - 1,), ((0, 1),)) for n in branches])


def test_the_layout_that_computes_least_is_taken(lm):
    # A program of this model counts as hundreds of thousands of tokens, so each kind of row has one length.
    # 2 x (100 + 16) or 100 + 20 tokens.
    few = answer_scoring.TokenizedQuestions([group(100, 10)] * 2, group(100, 20), exact=True)
    many = answer_scoring.TokenizedQuestions([group(100, 10)] * 2, group(10, 400), exact=True)
    assert answer_scoring.choose_layout(lm, [few]) == answer_scoring.PromptLayout(True, (100,), (20,))
    assert answer_scoring.choose_layout(lm, [many]) == answer_scoring.PromptLayout(False, (100,), (16,))
    # One long row pads all others: 2 x 4 x (100 + 16) tokens apart are fewer than 4 x (100 + 400) together.
    assert answer_scoring.choose_layout(lm, [few, few, few, many]) == answer_scoring.PromptLayout(False, (100,), (16,))
    assert answer_scoring.choose_layout_for_part([few, few, few, few]).together
    assert not answer_scoring.choose_layout_for_part([many]).together
    assert answer_scoring.choose_layout(lm, []) == answer_scoring.PromptLayout(False)


def test_equal_candidates_are_tokenised_once(lm, monkeypatch):
    encoded = []
    encode_batch = Tokenizer.encode_batch

    def counted(self, texts, *arguments, **more):
        encoded.extend(texts)
        return encode_batch(self, texts, *arguments, **more)

    monkeypatch.setattr(Tokenizer, "encode_batch", counted)
    asked_about(lm, ["Ada"], ["a gem", "a fool"])
    once = len(encoded)
    (asked,) = asked_about(lm, ["Ada"], ["a gem", "a fool", "a gem", "a gem"])
    assert len(encoded) == 2 * once > 0
    assert len(asked.together.branches) == 4
    np.testing.assert_array_equal(asked.together.branches[0].tokens, asked.together.branches[3].tokens)


def test_documents_of_one_call_are_asked_alike(lm):
    (two,), (three,) = (asked_about(lm, ["Ada"], texts) for texts in (["a", "b"], ["a", "b", "c"]))
    with pytest.raises(ValueError, match="as many texts"):
        answer_scoring.start_scoring(lm, [two, three], 2, answer_scoring.PromptLayout(False))


def test_a_branch_as_a_tree():
    branch = Branch(np.arange(9, dtype=np.int32), 3, (4, 7, 8), ((0, 1),) * 3)
    offsets, leaves = branch.tree()
    assert offsets.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 3]
    assert leaves.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3]


def test_the_favourable_answer_comes_first(lm):
    task, example = word_removal.WordRemoval(), Example("1", "Ada the baker")
    (question, *_) = task.judge_questions(example, "Ada is a fool.", "Remove a fool.", "Ada is a person.")
    turned = dataclasses.replace(question, answers=question.answers[::-1])
    asked = [answer_scoring.ask(lm, "1", [[q]]) for q in (question, turned)]
    p, q = (scores.item() for scores in answer_scoring.favourable_probabilities(lm, asked, batch_size=2))
    assert p + q == pytest.approx(1.0, abs=1e-6)
    assert abs(p - q) > 1e-3


@pytest.mark.filterwarnings("error")
def test_favourable_probability_at_extremes():
    logits = np.array([[0, 0], [1, 0], [0, 1], [1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]], np.float32)
    right = [0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 1, 0, 0.5]
    np.testing.assert_allclose(answer_scoring.favourable_probability(logits), right, atol=1e-12)


@pytest.mark.fast
def test_best_of_n():
    scores = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [5.0, 5.0, 1.0], [-np.inf, -5.0, -np.inf], [1.0, 2.0, 3.0]])
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)
    assert selection.best_of_n(scores, mask).tolist() == [1, 2, 0, 1, 2]
    rng = np.random.default_rng(0)
    for _ in range(100):
        s, m = rng.normal(size=6), rng.random(6) < 0.5
        allowed = [i for i in range(6) if m[i]] or list(range(6))
        assert selection.best_of_n(s[None], m[None])[0] == max(allowed, key=lambda i: s[i])


@pytest.mark.fast
def test_baselines():
    texts = ["bb", "a longer one", "", "ccc"]
    assert baselines.longest_scores(texts).tolist() == [2, 12, 0, 3]
    assert np.argmax(baselines.first_scores(texts)) == 0
    assert np.all(np.diff(baselines.first_scores(texts)) < 0)
    a, b, c = (baselines.random_scores(texts, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert a.tolist() == b.tolist() != c.tolist()
    picks = [int(np.argmax(baselines.random_scores(texts, np.random.default_rng(seed)))) for seed in range(400)]
    assert np.bincount(picks, minlength=4).min() > 60  # each about 100


def test_cosine_by_hand():
    feedback = np.array([3.0, 4.0])
    candidates = np.array([[6.0, 8.0], [-3.0, -4.0], [4.0, -3.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(embedding.cosine(feedback, candidates), [1, -1, 0, 0.6, 0], atol=1e-12)


def test_embeddings_ignore_padding_and_neighbours(lm):
    texts = ["Ada is a fool.", "No", "Better text follows the feedback a goose and some more words after it", ""]
    found = lm.embed(texts, batch_size=3)
    for text, vector in zip(texts, found, strict=True):
        ids = lm.tokenizer.encode(text) or [0]
        row = np.full((1, 512), 9, np.int32)  # no zeros behind the text either
        row[0, : len(ids)] = ids
        mean = np.asarray(forward(lm.architecture, lm.params, row))[0, : len(ids)].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    tokens = np.random.default_rng(0).integers(0, 400, (2, 24)).astype(np.int32)
    tokens[1, :7] = tokens[0, :7]
    vectors = embed_step(lm.architecture, lm.params, tokens, np.array([7, 7], np.int32))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert found.shape == (4, 32)
