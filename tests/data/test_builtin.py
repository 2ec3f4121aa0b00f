"""Built-in data: disjoint splits, the same every time, and lessons whose answers the oracle agrees with."""

import itertools
import re
import subprocess
import sys

import pytest

from ilf_jax.data import builtin
from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.tasks import word_removal as wr

pytestmark = [pytest.mark.fast, pytest.mark.versions]

SIZE = 4000


@pytest.fixture(scope="module")
def lessons():
    return {split: builtin.generate(f"word_removal_pretraining:{SIZE}", split) for split in ("train", "test")}


def document_of(example):
    return Example("", wr.parse(example)[0])


def match(template, text):
    """The gaps of a filled template, or None."""
    pattern = re.escape(template)
    for gap in ("document", "draft", "feedback", "refinement", "first", "second"):
        pattern = pattern.replace(rf"\{{{gap}\}}", f"(?P<{gap}>[^\n]*)")
    found = re.fullmatch(pattern, text)
    return found and found.groupdict()


def by_part(examples):
    """Lessons sorted by the template that they were made from: (part, gaps, (yes, no) or None, completion)."""
    templates = [("policy", wr.PROMPTS.policy, None), ("refine", wr.PROMPTS.refine, None),
                 ("critic", wr.PROMPTS.critic, None), ("compare", wr.PROMPTS.compare, ("A", "B")),
                 *(("judge", t, (yes, no)) for t, yes, no in wr.PROMPTS.judge)]
    parts = {}
    for example in examples:
        hits = [(part, gaps, answers) for part, template, answers in templates
                if (gaps := match(template, example.document)) is not None]
        assert len(hits) == 1, example
        part, gaps, answers = hits[0]
        parts.setdefault(part, []).append((gaps, answers, example.reference))
    return parts


def test_people_are_in_one_split_each():
    people = builtin.people()
    assert set(people) == {"train", "test", "pretraining"}
    for a, b in itertools.combinations(people.values(), 2):
        assert not set(a) & set(b)
    for names in people.values():
        assert len(set(names)) == len(names) > 100


def test_documents():
    train, test = (builtin.generate("word_removal:50", split) for split in ("train", "test"))
    assert len(train) == len(test) == 50
    assert len({e.id for e in train + test}) == 100
    assert not {e.document for e in train} & {e.document for e in test}
    everything = builtin.generate("word_removal", "train")
    assert everything[:50] == train
    assert len(everything) == len(builtin.people()["train"])


@pytest.mark.parametrize(("name", "split"), [("word_removal:3", "nowhere"), ("word_removal_pretraining:3", "nowhere"),
                                             ("no_such", "train"), ("word_removal:many", "train")])
def test_what_is_not_there_is_refused(name, split):
    with pytest.raises(InputError, match=r"train|no_such|whole number"):
        builtin.generate(name, split)


def test_a_size_of_zero_gives_nothing():
    assert builtin.generate("word_removal:0", "train") == []
    assert builtin.generate("word_removal_pretraining:0", "test") == []


def test_the_same_every_time_in_every_process(lessons):
    assert builtin.generate(f"word_removal_pretraining:{SIZE}", "test") == lessons["test"]
    program = ("import hashlib; from ilf_jax.data import builtin; print(hashlib.sha256(repr(["
               "builtin.generate('word_removal_pretraining:300', 'train'), builtin.people()]).encode()).hexdigest())")
    digests = {subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
                              capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(digests) == 1


def test_lessons_do_not_name_the_people_of_the_run(lessons):
    people = builtin.people()
    for split, absent in (("train", ("train", "test")), ("test", ("train", "pretraining"))):
        text = "\n".join(e.document + e.reference for e in lessons[split])
        found = set(re.findall(r"[A-Z][a-z]+ the [a-z]+", text))
        for other in absent:
            assert not found & set(people[other])
    assert len({e.id for e in lessons["train"] + lessons["test"]}) == 2 * SIZE


@pytest.mark.parametrize("split", ["train", "test"])
def test_lessons_agree_with_the_oracle(lessons, split):
    task, parts = wr.WordRemoval(), by_part(lessons[split])
    assert set(parts) == {"policy", "refine", "judge", "critic", "compare"}
    for gaps, _, completion in parts["policy"]:
        assert wr.parse(completion)[0] == gaps["document"]
    for gaps, _, completion in parts["refine"]:
        assert completion == task.oracle_refinement(document_of(gaps["draft"]), gaps["draft"], gaps["feedback"])
    for gaps, _, completion in parts["critic"]:
        assert completion == task.oracle_feedback(document_of(gaps["draft"]), gaps["draft"])
    for gaps, (yes, no), completion in parts["judge"]:
        right = task.oracle_refinement(document_of(gaps["draft"]), gaps["draft"], gaps["feedback"])
        assert completion == (yes if gaps["refinement"] == right else no), gaps
    for gaps, (a, b), completion in parts["compare"]:
        first, second = (task.measure(document_of(gaps[k]), gaps[k])["insults_per_text"] for k in ("first", "second"))
        assert first != second
        assert completion == (a if first < second else b)


def test_lessons_are_balanced_and_spread(lessons):
    parts = by_part(lessons["train"])
    for name, share in builtin._SHARES.items():
        assert len(parts[name]) / SIZE == pytest.approx(share / sum(builtin._SHARES.values()), abs=0.03)
    for name, low, high in (("judge", 0.4, 0.6), ("compare", 0.35, 0.65)):
        favourable = sum(completion == answers[0] for _, answers, completion in parts[name]) / len(parts[name])
        assert low < favourable < high, name
    draws = [len(set(wr.parse(completion)[1]) & set(wr.insults())) for _, _, completion in parts["policy"]]
    assert set(draws) == set(range(6))


def test_sentences_grow_over_the_first_half(lessons):
    def longest(examples):
        return max(len(wr.parse(gaps["draft"])[1]) for gaps, _, _ in by_part(examples)["refine"])

    assert longest(lessons["train"][: SIZE // 20]) <= 4
    assert longest(lessons["train"][SIZE // 2 :]) == 11
