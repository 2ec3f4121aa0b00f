"""Files that people filled in, in whatever editor: their answers come back, or one line says what to mend and where."""

import codecs
import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from limits import Outcomes, counted

from ilf_jax.comparison import by_people
from ilf_jax.config_sections import Config
from ilf_jax.errors import InputError, WaitingError
from ilf_jax.feedback import human
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.records import Example

OUTCOMES = {"human files": Outcomes()}
counts = counted(**OUTCOMES)
DRAFTS = tuple(DraftedDocument(Example(i, f"Über {i}"), f"Entwurf {i}") for i in ("a", "b"))
DOCUMENTS = {f"d{i}": Example(f"d{i}", f"text {i}") for i in range(3)}
SYSTEMS = {"new": {i: f"good {i}" for i in DOCUMENTS}, "old": {i: f"bad {i}" for i in DOCUMENTS}}
OTHER_ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "mac-roman")

texts = st.text(st.characters(exclude_categories=()), max_size=10)
anything = st.one_of(texts, st.integers(), st.floats(), st.none(), st.booleans(), st.lists(texts, max_size=2),
                     st.dictionaries(texts, texts, max_size=2))
edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def outcomes():
    return OUTCOMES["human files"]


def give(folder):
    context = SourceContext(config=Config(), task=None, roles=None, iteration=1, folder=folder, documents=DRAFTS)
    return {f.id: f.text for f in human.Human(context).start(DRAFTS).result()}


def write_reviews(folder, **more):
    rows = [{"id": d.example.id, "document": d.example.document, "draft": d.draft, "feedback": "Kürzer – so.", **more}
            for d in DRAFTS]
    path = folder / human.FILE
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(folder):
    path = folder / "pairs.jsonl"
    for old in folder.glob("pairs.jsonl*"):
        old.unlink()
    by_people.export(path, DOCUMENTS, SYSTEMS, seed=0)
    path.write_text(path.read_text().replace('"better": ""', '"better": "A"'))
    return path, folder / "pairs.jsonl.key.json"


def spoiled(content, changes):
    content = bytearray(content)
    for at, size, new in changes:
        at %= len(content) + 1
        content[at : at + size] = new
    return bytes(content)


@given(changes=edits)
def test_spoiled_reviews(changes, tmp_path, outcomes):
    path = write_reviews(tmp_path)
    path.write_bytes(spoiled(path.read_bytes(), changes))
    with outcomes.one():
        feedback = give(tmp_path)
        assert set(feedback) == {"a", "b"} and all(text.strip() for text in feedback.values())


@given(name=st.sampled_from(["id", "document", "draft", "feedback", "note"]), value=anything)
@example(name="id", value="\n\x1b[2J" * 400)
@example(name="feedback", value="\ud800")
def test_reviews_with_values_of_every_type(name, value, tmp_path, outcomes):
    try:
        write_reviews(tmp_path, **{name: value})
    except UnicodeEncodeError:
        path = write_reviews(tmp_path)  # as an escape, half a surrogate pair can be written
        path.write_text("".join(json.dumps({**json.loads(line), name: value}) + "\n"
                                for line in path.read_text(encoding="utf-8").splitlines()))
    with outcomes.one():
        feedback = give(tmp_path)
        assert name != "feedback" or feedback == {"a": value, "b": value}


@given(changes=edits, of_key=st.booleans())
def test_spoiled_answers(changes, of_key, tmp_path, outcomes):
    path = write_pairs(tmp_path)[of_key]
    path.write_bytes(spoiled(path.read_bytes(), changes))
    with outcomes.one():
        (match,) = by_people.read(tmp_path / "pairs.jsonl", SYSTEMS)[by_people.OVERALL]
        assert set(match.outcomes) <= set(DOCUMENTS) and 0 <= match.win_rate <= 1


@given(entry=st.one_of(anything, st.fixed_dictionaries(
    {"document": anything, "A": st.sampled_from(["new", "old", "x", 1, []]), "B": st.sampled_from(["new", "old"])})))
def test_keys_with_values_of_every_type(entry, tmp_path, outcomes):
    path, key = write_pairs(tmp_path)
    try:
        key.write_text(json.dumps({**json.loads(key.read_text()), "1": entry}))
    except ValueError:
        assume(False)
    with outcomes.one():
        by_people.read(path, SYSTEMS)


@given(value=anything)
@example(value="x" * 5000)
@example(value="\n\x1b[2J")
def test_answers_with_values_of_every_type(value, tmp_path, outcomes):
    path, _ = write_pairs(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "better": value}) + "\n" for row in rows))
    with outcomes.one():
        by_people.read(path, SYSTEMS)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n", " \r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_what_editors_write_is_read(mark, ending, tmp_path):
    path = write_reviews(tmp_path)
    path.write_bytes(mark + path.read_bytes().replace(b"\n", ending.encode()))
    assert give(tmp_path) == {"a": "Kürzer – so.", "b": "Kürzer – so."}
    pairs, _ = write_pairs(tmp_path)
    pairs.write_bytes(mark + pairs.read_bytes().replace(b"\n", ending.encode()))
    assert len(by_people.read(pairs, SYSTEMS)[by_people.OVERALL][0].outcomes) == 3


@pytest.mark.parametrize("encoding", OTHER_ENCODINGS)
def test_other_encodings_are_refused_with_the_remedy(encoding, tmp_path):
    path = write_reviews(tmp_path, feedback="Kürzer.")
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=rf"{human.FILE}:1: is .*UTF-.*save the file as UTF-8"):
        give(tmp_path)
    pairs, _ = write_pairs(tmp_path)
    pairs.write_bytes(pairs.read_text().replace('"better"', '"note": "schön", "better"').encode(encoding))
    with pytest.raises(InputError, match=r"pairs.jsonl:1: is .*UTF-.*save the file as UTF-8"):
        by_people.read(pairs, SYSTEMS)


def test_deep_nesting_and_keys_that_stand_twice_are_refused(tmp_path):
    path = write_reviews(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for extra, words in (('"note": ' + "[" * 100_000, "nested too deeply"),
                         ('"feedback": "Länger."', "the key 'feedback' appears twice")):
        path.write_text(f"{lines[0]}\n{lines[1][:-1]}, {extra}}}\n", encoding="utf-8")
        with pytest.raises(InputError, match=rf"{human.FILE}:2: is not valid JSON: {words}"):
            give(tmp_path)


@pytest.mark.parametrize("blank", ["", " \r\n", "\u200b", "\u3000", "\ufeff"])
def test_what_looks_blank_waits(blank, tmp_path):
    write_reviews(tmp_path, feedback=blank)
    with pytest.raises(WaitingError, match="2 of 2 drafts wait for feedback"):
        give(tmp_path)
