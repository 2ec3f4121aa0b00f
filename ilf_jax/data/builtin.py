"""Data sets that ship with the package: `builtin:NAME` or `builtin:NAME:SIZE`. All but the reviews are generated."""

import dataclasses
import difflib
import importlib.resources
import itertools
import json
import random
from collections.abc import Callable

from ilf_jax.errors import InputError
from ilf_jax.records import Comparison, Example
from ilf_jax.tasks import word_removal

_FIRST_NAMES = (
    "Ada Alex Amir Anna Ben Bo Cara Carl Chen Cleo Dana Dean Dora Ed Ella Emil Eva Fay Finn Fred Gina Glen Greta Gus "
    "Hana Hugo Ida Igor Ines Ivan Jack Jane Jin Joan Kai Karl Kate Kim Lars Lea Leo Lily Lou Luke Maia Marc Mei Milo "
    "Mona Nick Nina Noor Olga Omar Oona Otto Pam Paul Pia Quinn Rafa Rita Rosa Ruth Sam Sara Sean Sofia Tara Theo Tim "
    "Tina Uma Vera Viktor Wanda Will Yara Yusuf Zoe"
).split()
_JOBS = (
    "baker barber bishop brewer builder butcher butler carpenter chef clerk coach cook cooper dancer dentist doctor "
    "driver farmer fiddler fisher gardener glazier grocer guard hatter judge lawyer mason mayor miller miner nurse "
    "painter pilot piper plumber poet porter potter ranger sailor singer smith soldier surgeon tailor teacher tutor "
    "waiter weaver"
).split()

# (insults in a draft, weight): how the untrained policy writes.
_DRAFT_INSULTS = ((0, 2), (1, 13), (2, 30), (3, 30), (4, 15), (5, 10))
_DEFAULT_PRETRAINING_SIZE = 204_800
_DEFAULT_COMPARISONS = 2_000
# What each pretraining example teaches, with its weight.
_SHARES = {"policy": 12, "refine": 50, "judge": 28, "critic": 6, "compare": 4}


def people() -> dict[str, list[str]]:
    """Names by split. No name is in two splits."""
    everyone = [f"{first} the {job}" for first, job in itertools.product(_FIRST_NAMES, _JOBS)]
    random.Random(0).shuffle(everyone)
    third = len(everyone) // 10
    return {"test": everyone[:third], "train": everyone[third : 4 * third], "pretraining": everyone[4 * third :]}


def _word_removal(split: str, size: int | None) -> list[Example]:
    names = people()
    if split not in names:
        raise InputError(f"builtin:word_removal has the splits {', '.join(names)}, not {split!r}")
    # With more examples than names, names repeat. Each example still gets a draft of its own.
    people_of_split = itertools.cycle(names[split])
    documents = itertools.islice(people_of_split, len(names[split]) if size is None else size)
    return [Example(id=f"{split}-{i:05d}", document=name) for i, name in enumerate(documents)]


def _word_removal_references(split: str, size: int | None) -> list[Example]:
    """Like word_removal, with a kind sentence as the reference."""
    rng = random.Random(f"word_removal_references/{split}")
    return [dataclasses.replace(e, reference=word_removal.sentence(e.document, [rng.choice(word_removal.KIND_WORDS)]))
            for e in _word_removal(split, size)]


def random_words(rng: random.Random, insults: tuple[str, ...], count: int) -> list[str]:
    """`count` distinct insults and one kind word, in random order."""
    words = [*rng.sample(insults, count), rng.choice(word_removal.KIND_WORDS)]
    rng.shuffle(words)
    return words


def _spoiled(rng: random.Random, words: list[str], right: list[str], insults: tuple[str, ...]) -> list[str]:
    """A plausible wrong refinement: one word too few, one too many, no change, or some named words kept."""
    kind = rng.randrange(4)
    removed = [w for w in words if w not in right]
    if kind == 0 and len(right) > 1:
        dropped = rng.choice(right)
        return [w for w in right if w != dropped]
    if kind == 1:
        return [*right, rng.choice(insults)]
    if kind == 2:
        return words
    if removed:
        restored = set(rng.sample(removed, rng.randint(1, len(removed))))
        return [w for w in words if w in right or w in restored]
    return right[1:] or words


def _lesson(
    task: word_removal.WordRemoval, rng: random.Random, names: list[str], insults: tuple[str, ...], max_insults: int
) -> tuple[str, str]:
    """One (prompt, completion) pair. Drafts to refine contain at most `max_insults` insults."""
    part = rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]
    example = Example(id="", document=rng.choice(names))
    if part == "policy":
        counts, weights = zip(*_DRAFT_INSULTS, strict=True)
        count = rng.choices(counts, weights=weights)[0]
        words = random_words(rng, insults, count)
        return task.policy_prompt(example).text, word_removal.sentence(example.document, words)

    count = rng.randint(0 if rng.random() < 0.1 else 1, max_insults)
    words = random_words(rng, insults, count)
    draft = word_removal.sentence(example.document, words)
    present = [w for w in words if w in insults]
    if part == "critic":
        return task.critic_prompt(example, draft).text, task.oracle_feedback(example, draft)
    if part == "compare":
        other_count = rng.choice([c for c in range(6) if c != count])
        other = word_removal.sentence(example.document, random_words(rng, insults, other_count))
        question = task.compare_question(example, draft, other)
        return question.prompt.text, question.answers[0 if count < other_count else 1]

    named = rng.sample(present, min(len(present), rng.randint(1, word_removal.MAX_NAMED)))
    named.sort(key=words.index)
    feedback = word_removal.feedback_on(named, rng.randrange(3))
    refinement = task.oracle_refinement(example, draft, feedback)
    if part == "refine":
        return task.refine_prompt(example, draft, feedback).text, refinement
    right = [w for w in words if w not in named]
    candidate = right if rng.random() < 0.5 else _spoiled(rng, words, right, insults)
    candidate_text = word_removal.sentence(example.document, candidate)
    question = rng.choice(task.judge_questions(example, draft, feedback, candidate_text))
    return question.prompt.text, question.answers[0 if candidate == right else 1]


def _word_removal_pretraining(split: str, size: int | None) -> list[Example]:
    """Training data of the built-in model: every part of the task, short sentences first (a curriculum)."""
    if split not in ("train", "test"):
        raise InputError(f"builtin:word_removal_pretraining has the splits train, test, not {split!r}")
    if size is None:
        size = _DEFAULT_PRETRAINING_SIZE if split == "train" else 500
    rng = random.Random(f"word_removal_pretraining/{split}")
    names = people()["pretraining" if split == "train" else "test"]
    insults, task = word_removal.insults(), word_removal.WordRemoval()
    examples = []
    for i in range(size):
        # Sentences get longer over the first half. Long ones stay rare, as they are in drafts.
        longest = 10 if split == "test" else min(10, 2 + int(16 * i / size))
        max_insults = longest if rng.random() < 0.35 else min(longest, 5)
        prompt, completion = _lesson(task, rng, names, insults, max_insults)
        examples.append(Example(id=f"{split}-{i:07d}", document=prompt, reference=completion))
    return examples


def _word_removal_comparisons(split: str, size: int | None) -> list[Comparison]:
    """Two descriptions of a person in the style of the untrained policy. The one with fewer insults is preferred."""
    names = people()
    if split not in names:
        raise InputError(f"builtin:word_removal_comparisons has the splits {', '.join(names)}, not {split!r}")
    rng = random.Random(f"word_removal_comparisons/{split}")
    comparisons = []
    for i in range(_DEFAULT_COMPARISONS if size is None else size):
        name, counts = rng.choice(names[split]), rng.sample(range(6), 2)
        texts = [word_removal.sentence(name, random_words(rng, word_removal.insults(), count)) for count in counts]
        comparisons.append(Comparison(f"{split}-{i:06d}", name, texts[0], texts[1],
                                      "first" if counts[0] < counts[1] else "second"))
    return comparisons


def _word_removal_controlled(split: str, size: int | None) -> list[Example]:
    """PAPER's targeted word removal: `size` sentences (default: 50) for 1 to 10 insults and 1 to 3 of them named.

    The document is the refinement prompt, the reference is the correct refinement, the group is the number of insults.
    """
    if split != "test":
        raise InputError(f"builtin:word_removal_controlled has only the split test, not {split!r}")
    rng = random.Random("word_removal_controlled")
    names, insults, task = people()["test"], word_removal.insults(), word_removal.WordRemoval()
    examples = []
    for count, named_count in itertools.product(range(1, 11), range(1, word_removal.MAX_NAMED + 1)):
        for i in range((50 if size is None else size) if named_count <= count else 0):
            name, words = rng.choice(names), random_words(rng, insults, count)
            draft = word_removal.sentence(name, words)
            present = [word for word in words if word in insults]
            named = sorted(rng.sample(present, named_count), key=present.index)
            feedback = word_removal.feedback_on(named, rng.randrange(3))
            example = Example(id="", document=name)
            examples.append(Example(
                id=f"insults-{count:02d}-named-{named_count}-{i:03d}",
                document=task.refine_prompt(example, draft, feedback).text,
                reference=task.oracle_refinement(example, draft, feedback), group=f"{count:02d} insults"))
    return examples


def _reviews_sample(split: str, size: int | None) -> list[Example]:
    """60 short texts, each with a summary, what a reader says of it, and a better summary; written for this package."""
    if split != "train":
        raise InputError(f"builtin:reviews_sample has only the split train, not {split!r}; leave "
                         "config.data.eval_source unset, and its last rows are held out")
    file = importlib.resources.files("ilf_jax.assets").joinpath("reviews_sample.jsonl")
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines()[:size])
    return [Example(id=f"review-{number:02d}", document=row["document"], draft=row["draft"], feedback=row["feedback"],
                    human_refinement=row["refinement"]) for number, row in enumerate(rows, start=1)]


GENERATORS: dict[str, Callable[[str, int | None], list[Example] | list[Comparison]]] = {
    "reviews_sample": _reviews_sample,
    "word_removal": _word_removal,
    "word_removal_comparisons": _word_removal_comparisons,
    "word_removal_controlled": _word_removal_controlled,
    "word_removal_pretraining": _word_removal_pretraining,
    "word_removal_references": _word_removal_references,
}


def check(name: str) -> None:
    """Raises InputError if `NAME` or `NAME:SIZE` is not a data set, and names the nearest one."""
    name, _, size = name.partition(":")
    if name not in GENERATORS:
        near = difflib.get_close_matches(name, GENERATORS, n=1)
        hint = f"; did you mean builtin:{near[0]}?" if near else ""
        raise InputError(f"builtin:{name} is not a data set; allowed: {', '.join(sorted(GENERATORS))}{hint}")
    if size and not size.isdecimal():
        raise InputError(f"builtin:{name}:{size}: the size must be a whole number")


def generate(name: str, split: str) -> list[Example] | list[Comparison]:
    """The records of `NAME` or `NAME:SIZE`. Raises InputError if the name, the size or the split is wrong."""
    check(name)
    name, _, size = name.partition(":")
    return GENERATORS[name](split, int(size) if size else None)
