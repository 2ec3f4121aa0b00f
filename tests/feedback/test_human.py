"""A run that waits for people: it stops, says where to write, and resumes with what they wrote."""

import json
import pathlib
import shutil

import pytest
from conftest import run_main

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.data import reviewed
from ilf_jax.errors import InputError, WaitingError
from ilf_jax.feedback import control, human
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.records import REFINEMENT_BY, Example, Feedback

pytestmark = [pytest.mark.fast, pytest.mark.versions]

DOCUMENTS = tuple(DraftedDocument(Example(id=i, document=f"about {i}"), f"draft {i}") for i in ("a", "b"))


def give(folder, documents=DOCUMENTS, min_reviewed=1.0):
    config = config_lib.with_overrides(config_lib.Config(), {"feedback.min_reviewed": min_reviewed})
    source = human.Human(SourceContext(config=config, task=None, roles=None, iteration=1, folder=folder,
                                       documents=documents))
    return source.start(documents).result()


def fill(path, **feedback):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "feedback": feedback.get(row["id"], "")}) + "\n" for row in rows))


def test_waits_until_all_is_written(tmp_path):
    path = tmp_path / human.FILE
    with pytest.raises(WaitingError, match="2 of 2 drafts wait for feedback, the first is 'a'"):
        give(tmp_path)
    assert [json.loads(line)["draft"] for line in path.read_text().splitlines()] == ["draft a", "draft b"]
    fill(path, a="Shorter, please.")
    with pytest.raises(WaitingError, match="1 of 2 drafts wait for feedback, the first is 'b'"):
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
    with pytest.raises(WaitingError):
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
    with pytest.raises(WaitingError, match="wait for feedback"):
        ilf_jax.run(tiny_config, folder)
    path = folder / "iteration_001/feedback" / human.FILE
    drafts = (folder / "iteration_001/draft").glob("0*.jsonl")
    before = {p: p.read_bytes() for p in drafts}
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    fill(path, **{i: f"Say more about {i}." for i in ids})
    ilf_jax.run(tiny_config, folder)
    assert before and all(p.read_bytes() == content for p, content in before.items())
    assert {row["id"]: row["text"] for row in records(folder, "feedback")} == {i: f"Say more about {i}." for i in ids}


def records(folder, stage):
    return [json.loads(line) for shard in sorted((folder / "iteration_001" / stage).glob("0*.jsonl"))
            for line in shard.read_text().splitlines()]


@pytest.mark.usefixtures("quick_compiles")
def test_a_reviewers_refinement_is_what_the_document_teaches(tiny_config, tmp_path):
    tiny_config.feedback.source = "human"
    folder = tmp_path / "run"
    with pytest.raises(WaitingError):
        ilf_jax.run(tiny_config, folder)
    stage = folder / "iteration_001/feedback"
    rows = [json.loads(line) for line in (stage / human.FILE).read_text().splitlines()]
    texts = {row["id"]: f"better text {n}" for n, row in enumerate(rows[:3])}
    by = dict(zip(texts, REFINEMENT_BY, strict=True))
    with (stage / reviewed.REVIEWS).open("w") as f:
        for row in rows:
            i = row["id"]
            more = {"human_refinement": f" {texts[i]}\n", "refinement_by": by[i]} if i in by else {}
            f.write(json.dumps({"id": i, "draft": row["draft"], "status": "submitted", "feedback": "Say more.", **more})
                    + "\n")
    metrics = ilf_jax.run(tiny_config, folder)
    assert {row["id"]: (row["refinement"], row["refinement_by"]) for row in records(folder, "feedback")
            if row["refinement"]} == {i: (texts[i], by[i]) for i in by}
    scored = {row["id"]: row for row in records(folder, "score")}
    assert {i: row["overruled_by"] for i, row in scored.items()} == {row["id"]: by.get(row["id"], "") for row in rows}
    picked = {row["id"]: row["texts"][scored[row["id"]]["chosen"]] for row in records(folder, "refine")}
    learned = {row["id"]: (row["completion"], row["source"]) for row in records(folder, "finetune")}
    assert {i: learned[i] for i in by} == {i: (texts[i], f"refinement: {by[i]}") for i in by}
    assert {i: learned[i] for i in learned if i not in by} == {
        i: (text, "refinement") for i, text in picked.items() if i not in by and text}
    assert [(m["value"], m["n"]) for m in metrics if m["metric"] == "overruled_rate"] == [(0.5, 6)]
    report = (folder / "report.html").read_text()
    assert "taken over and edited" in report and '"given":{"text":"better text 0","by":"reviewer"}' in report

    whole = {stage: records(folder, stage) for stage in ("feedback", "refine", "score", "finetune")}
    for name in ("score", "finetune", "evaluate", "checkpoint"):  # as if killed before the second half
        shutil.rmtree(folder / "iteration_001" / name)
    assert ilf_jax.run(tiny_config, folder) == metrics
    assert {stage: records(folder, stage) for stage in whole} == whole


def test_a_refinement_by_hand_stands_beside_feedback(tmp_path):
    path = tmp_path / human.FILE
    with pytest.raises(WaitingError):
        give(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def write(*said):
        path.write_text("".join(json.dumps({**row, **more}) + "\n" for row, more in zip(rows, said, strict=True)))

    write({"feedback": "one", "human_refinement": " better \n"}, {"feedback": "two"})
    assert [(f.refinement, f.refinement_by) for f in give(tmp_path)] == [("better", "reviewer"), ("", "")]
    write({"feedback": "one"}, {"human_refinement": "better"})
    with pytest.raises(InputError, match=r":2: has a human_refinement, but no feedback"):
        give(tmp_path)
    write({"feedback": "one", "human_refinement": 3}, {"feedback": "two"})
    with pytest.raises(InputError, match=r":1: a line is an object"):
        give(tmp_path)


def test_anothers_feedback_comes_without_the_refinement():
    given = {i: Feedback(i, f"about {i}", "human", refinement=f"better {i}", refinement_by="reviewer") for i in "ab"}
    assert control.exchanged({"a": "b", "b": "a"}, given) == [Feedback("a", "about b", "human"),
                                                             Feedback("b", "about a", "human")]
    assert control.exchanged({"a": "a", "b": "b"}, given) == list(given.values())


CASES = pathlib.Path(__file__).parents[1] / "cases/human_files"


def read(path):
    wanted = {"row-000001": {"draft": ""}, "row-000002": {"draft": "Remove"}}
    return {i: row.feedback for i, row in reviewed.by_hand(path, wanted).items()}


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


SEVEN = tuple(DraftedDocument(Example(id=f"d{i}", document=f"about {i}"), f"draft {i}") for i in range(7))


def note(folder, **by_id):
    """Lines of the reviewing page: id -> feedback, or a status."""
    drafts = {d.example.id: d.draft for d in SEVEN}
    with (folder / reviewed.REVIEWS).open("a") as f:
        for i, said in by_id.items():
            status = said if said in ("skipped", "flagged", "pending") else "submitted"
            f.write(json.dumps({"id": i, "draft": drafts[i], "status": status,
                                "feedback": said if status == "submitted" else ""}) + "\n")


def test_the_last_line_of_the_page_counts_and_goes_before_the_file(tmp_path):
    with pytest.raises(WaitingError, match=r"7 of 7 .* 7 more are needed"):
        give(tmp_path, SEVEN)
    fill(tmp_path / human.FILE, d0="by hand", d1="by hand")
    note(tmp_path, d1="on the page", d2="first", d3="skipped", d4="flagged", d5="x", d6="y")
    note(tmp_path, d2="second", d6="pending")
    with pytest.raises(WaitingError, match="2 of 7 drafts wait for feedback, the first is 'd4'; 2 more"):
        give(tmp_path, SEVEN)
    assert {f.id: f.text for f in give(tmp_path, SEVEN, 4)} == {
        "d0": "by hand", "d1": "on the page", "d2": "second", "d5": "x"}


@pytest.mark.parametrize(("share", "skipped", "needed"), [
    (1.0, 0, 7), (1.0, 2, 5), (0.5, 0, 4), (0.5, 1, 3), (0.01, 6, 1), (3, 0, 3), (7, 2, 5)])
def test_how_many_are_needed(share, skipped, needed):
    assert reviewed.needed(share, 7, range(skipped)) == needed


def test_more_than_there_are_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"min_reviewed: 8 given, but .* only 7 documents"):
        give(tmp_path, SEVEN, 8)


def test_all_skipped_is_refused(tmp_path):
    with pytest.raises(WaitingError):
        give(tmp_path)
    path = tmp_path / human.FILE
    path.write_text("".join(json.dumps({**json.loads(line), "status": "skipped"}) + "\n"
                            for line in path.read_text().splitlines()))
    with pytest.raises(InputError, match="all 2 documents were skipped"):
        give(tmp_path)


def test_a_part_of_a_line_is_no_line(tmp_path):
    with pytest.raises(WaitingError):
        give(tmp_path, SEVEN)
    note(tmp_path, **{d.example.id: "said" for d in SEVEN})
    path = tmp_path / reviewed.REVIEWS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WaitingError, match=r"1 of 7 .* 'd6'"):
        give(tmp_path, SEVEN)
    path.write_bytes(b"{\n" + path.read_bytes())
    with pytest.raises(InputError, match=r"reviews\.jsonl:1: is not valid JSON"):
        give(tmp_path, SEVEN)


@pytest.mark.usefixtures("quick_compiles")
def test_skipped_documents_are_left_out_of_the_iteration(tiny_config, tmp_path, capsys):
    tiny_config.feedback.source = "human"
    folder = tmp_path / "run"
    code, said = run_main(tiny_config, folder, capsys)
    assert code == 4 and "waiting: " in said and "error" not in said and f"--workdir={folder}" in said
    path = folder / "iteration_001/feedback" / human.FILE
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    status = {rows[1]["id"]: {"status": "skipped"}, rows[4]["id"]: {"status": "skipped"}}
    path.write_text("".join(json.dumps({**r, **status.get(r["id"], {"feedback": "Say more."})}) + "\n" for r in rows))
    metrics = ilf_jax.run(tiny_config, folder)
    kept = {row["id"] for row in rows} - set(status)
    for stage in ("feedback", "refine", "score", "finetune"):
        shards = sorted((folder / "iteration_001" / stage).glob("0*.jsonl"))
        assert {json.loads(line)["id"] for shard in shards for line in shard.read_text().splitlines()} == kept, stage
    assert [(m["value"], m["n"]) for m in metrics if m["metric"] == "left_out_rate"] == [(pytest.approx(2 / 6), 6)]
    assert ilf_jax.run(tiny_config, folder) == metrics
