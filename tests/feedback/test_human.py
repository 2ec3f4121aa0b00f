"""A run that waits for people: it stops, says where to write, and resumes with what they wrote."""

import json
import pathlib

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.feedback import human
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.records import Example

pytestmark = [pytest.mark.fast, pytest.mark.versions]

DOCUMENTS = tuple(DraftedDocument(Example(id=i, document=f"about {i}"), f"draft {i}") for i in ("a", "b"))


def give(folder):
    source = human.Human(SourceContext(config=None, task=None, roles=None, iteration=1, folder=folder,
                                       documents=DOCUMENTS))
    return source.start(DOCUMENTS).result()


def fill(path, **feedback):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "feedback": feedback.get(row["id"], "")}) + "\n" for row in rows))


def test_waits_until_all_is_written(tmp_path):
    path = tmp_path / human.FILE
    with pytest.raises(InputError, match="2 of 2 drafts wait for feedback, the first is 'a'"):
        give(tmp_path)
    assert [json.loads(line)["draft"] for line in path.read_text().splitlines()] == ["draft a", "draft b"]
    fill(path, a="Shorter, please.")
    with pytest.raises(InputError, match="1 of 2 drafts wait for feedback, the first is 'b'"):
        give(tmp_path)
    fill(path, a="Shorter, please.", b=" Say why.\n")
    feedback = give(tmp_path)  # the stage takes the blanks away
    assert [(f.id, f.text.strip(), f.source) for f in feedback] == [
        ("a", "Shorter, please.", "human"), ("b", "Say why.", "human")]


@pytest.mark.parametrize(("change", "words"), [
    (lambda lines: ["{", *lines[1:]], ":1: is not valid JSON"),
    (lambda lines: [lines[0], '{"id": "b"}'], ":2: a line is an object"),
    (lambda lines: [lines[0], lines[1].replace("draft b", "another")], ":2: is not about a draft"),
    (lambda lines: [lines[0], lines[0]], ":2: id 'a' appears twice"),
    (lambda lines: lines[:1], "the lines of 1 drafts are missing, the first is 'b'"),
])
def test_a_spoiled_file_is_told_and_kept(change, words, tmp_path):
    path = tmp_path / human.FILE
    with pytest.raises(InputError):
        give(tmp_path)
    fill(path, a="one", b="two")
    spoiled = "\n".join(change(path.read_text().splitlines()))
    path.write_text(spoiled)
    with pytest.raises(InputError) as error:
        give(tmp_path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert path.read_text() == spoiled


@pytest.mark.usefixtures("quick_compiles")
def test_a_run_goes_on_with_what_was_written(tiny_config, tmp_path):
    tiny_config.feedback.source = "human"
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="wait for feedback"):
        ilf_jax.run(tiny_config, folder)
    path = folder / "iteration_001/feedback" / human.FILE
    drafts = (folder / "iteration_001/draft").glob("0*.jsonl")
    before = {p: p.read_bytes() for p in drafts}
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    fill(path, **{i: f"Say more about {i}." for i in ids})
    ilf_jax.run(tiny_config, folder)
    assert before and all(p.read_bytes() == content for p, content in before.items())
    (shard,) = (folder / "iteration_001/feedback").glob("0*.jsonl")
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    assert {row["id"]: row["text"] for row in rows} == {i: f"Say more about {i}." for i in ids}


CASES = pathlib.Path(__file__).parents[1] / "cases/human_files"


def read(path):
    wanted = {"row-000001": {"draft": ""}, "row-000002": {"draft": "Remove"}}
    return human._read(path, wanted)


def test_a_byte_order_mark_is_read():
    assert set(read(CASES / "rv_bom.jsonl").values()) == {"Sag, wo \u2013 caf\u00e9"}


def test_other_encodings_are_named(tmp_path):
    with pytest.raises(InputError, match=r"rv_cp1252.jsonl:1: is not UTF-8 .*Windows-1252.*save the file as UTF-8"):
        read(CASES / "rv_cp1252.jsonl")
    path = tmp_path / "utf16.jsonl"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        mark = "" if encoding == "utf-16" else "\ufeff"
        path.write_bytes((mark + (CASES / "rv_bom.jsonl").read_text("utf-8-sig")).encode(encoding))
        with pytest.raises(InputError, match=r"utf16\.jsonl:1: is UTF-16; save the file as UTF-8"):
            read(path)


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF x", "a\\ud83d"])
def test_half_a_surrogate_pair_is_refused(half, tmp_path):
    path = tmp_path / "half.jsonl"
    path.write_text(f'{{"id": "row-000001", "draft": "", "feedback": "{half}"}}\n')
    with pytest.raises(InputError, match=r"half\.jsonl:1: is not valid JSON"):
        read(path)
