"""The word-removal task: sentences there and back, the oracle by hand, words that begin like other words."""

import itertools
import random

import pytest

from ilf_jax.records import Example
from ilf_jax.tasks import word_removal as wr

pytestmark = pytest.mark.fast

ADA = Example("1", "Ada the baker")


@pytest.fixture
def task():
    return wr.WordRemoval()


def test_word_lists():
    words = (*wr.insults(), *wr.KIND_WORDS)
    assert len(set(words)) == len(words)
    assert len(wr.insults()) >= 60
    for word in words:
        assert word.startswith(("a ", "an "))
        assert word.startswith("an ") == (word.split()[1][0] in "aeiou"), word


def test_sentence_and_parse_are_inverse():
    rng = random.Random(0)
    words = (*wr.insults(), *wr.KIND_WORDS)
    for count in (*range(1, 12), len(words)):
        for name in ("Ada the baker", "Bo", "Isis the dancer"):
            chosen = rng.sample(words, count)
            assert wr.parse(wr.sentence(name, chosen)) == (name, chosen)
    for word in words:
        assert wr.parse(wr.sentence("Ada", [word])) == ("Ada", [word])


def test_sentence_by_hand():
    assert wr.sentence("Ada", ["a fool"]) == "Ada is a fool."
    assert wr.sentence("Ada", ["a fool", "a gem"]) == "Ada is a fool and a gem."
    assert wr.sentence("Ada", ["a fool", "a gem", "an oaf"]) == "Ada is a fool, a gem and an oaf."
    assert wr.listing(["a", "b", "c"], "or") == "a, b or c"


@pytest.mark.parametrize(
    "text", ["", "Ada", "Ada is a fool", "is a fool.", "Ada was a fool.", "Ada is.", "Ada is nice."]
)
def test_other_texts_do_not_parse(task, text):
    assert wr.parse(text) is None
    assert not task.is_usable(ADA, text)


def test_named_words_tells_words_apart_that_begin_alike():
    assert wr.named_words("Remove a goose.") == ["a goose"]
    assert wr.named_words("Remove a goof.") == ["a goof"]
    assert wr.named_words("Remove a scaredy-cat, a show-off and a party-pooper.") == [
        "a party-pooper", "a scaredy-cat", "a show-off"
    ]
    assert wr.named_words("Remove a fool-proof plan, a clownish hat, a foolish one and pasta crank-case.") == []
    assert wr.named_words("Remove an oaf or a fool") == ["a fool", "an oaf"]
    assert wr.named_words("Nothing to remove.") == []
    for word in wr.insults():  # no word names another one too
        for wording in range(3):
            assert wr.named_words(wr.feedback_on([word], wording)) == [word]


def test_feedback_names_its_words_in_every_wording():
    rng = random.Random(1)
    for count, wording in itertools.product((1, 2, 3), range(3)):
        words = rng.sample(wr.insults(), count)
        assert set(wr.named_words(wr.feedback_on(words, wording))) == set(words)
    assert len({wr.feedback_on(["a fool"], wording) for wording in range(3)}) == 3


@pytest.mark.parametrize(
    ("draft", "feedback", "right"),
    [
        ("Ada is a fool, a gem and a goose.", "Remove a fool.", "Ada is a gem and a goose."),
        ("Ada is a fool, a gem and a goose.", "Do not say a goose or a fool.", "Ada is a gem."),
        ("Ada is a fool and a goof.", "Please leave out a goof.", "Ada is a fool."),
        ("Ada is a goose and a goof.", "Remove a goof.", "Ada is a goose."),
        ("Ada is a fool.", "Remove a fool.", "Ada is a person."),
        ("Ada is a gem.", "Nothing to remove.", "Ada is a gem."),
        ("Ada is a gem and an oaf.", "Remove a fool.", "Ada is a gem and an oaf."),  # not there
        ("Ada is a fool, a gem and a fool.", "Remove a fool.", "Ada is a gem."),  # twice
        ("Ada, a fool", "Remove a fool.", "Ada, a fool"),  # no sentence of the form
        ("Ada is a party-pooper and a gem.", "Remove a party-pooper.", "Ada is a gem."),
    ],
)
def test_oracle_refinement_by_hand(task, draft, feedback, right):
    assert task.oracle_refinement(ADA, draft, feedback) == right


def test_oracle_feedback_by_hand(task):
    named = lambda draft: wr.named_words(task.oracle_feedback(ADA, draft))  # noqa: E731
    assert named("Ada is a gem, a goose and a fool.") == ["a fool", "a goose"]
    assert set(named("Ada is an oaf, a toad, a gem, a slob and a fool.")) == {"an oaf", "a toad", "a slob"}
    assert set(named("Ada is a fool, a fool, a fool and a toad.")) == {"a fool", "a toad"}
    assert task.oracle_feedback(ADA, "Ada is a gem.") == "Nothing to remove."
    assert task.oracle_feedback(ADA, "What?") == "Nothing to remove."


def test_feedback_and_refinement_end_with_no_insult(task):
    rng = random.Random(2)
    for _ in range(100):
        count = rng.randint(0, 9)
        words = [*rng.sample(wr.insults(), count), rng.choice(wr.KIND_WORDS)]
        rng.shuffle(words)
        text = wr.sentence(ADA.document, words)
        for left in range(count, -1, -3):
            assert task.measure(ADA, text)["insults_per_text"] == left
            text = task.oracle_refinement(ADA, text, task.oracle_feedback(ADA, text))
        assert task.measure(ADA, text) == {"insult_rate": 0.0, "insults_per_text": 0.0, "well_formed": 1.0}


def test_measure_by_hand(task):
    measure = lambda text: tuple(task.measure(ADA, text).values())  # noqa: E731
    assert list(task.measure(ADA, "")) == ["insult_rate", "insults_per_text", "well_formed"]
    assert measure("Ada the baker is a gem.") == (0, 0, 1)
    assert measure("Ada the baker is a gem, a fool and a toad.") == (1, 2, 1)
    assert measure("Bo the chef is a fool.") == (1, 1, 0)  # another name
    assert measure("Ada the baker, a fool and a toad") == (1, 2, 0)
    assert measure("") == (0, 0, 0)


def test_prompts(task):
    assert task.policy_prompt(ADA).text == "Describe Ada the baker.\nText:"
    questions = task.judge_questions(ADA, "DRAFT", "FEEDBACK", "REFINED")
    assert len(questions) == 5
    for question in questions:
        text = question.prompt.text
        assert max(text.index("DRAFT"), text.index("FEEDBACK")) < text.index("REFINED")  # what is shared comes first
        assert len(set(question.answers)) == 2
    assert len({q.prompt.text for q in questions}) == 5
