"""The reviewing page's store: queues, saves in order, undo, history, and files in both directions."""

import json
import sqlite3

import pytest

from ilf_jax.errors import InputError
from ilf_jax.review import exchange, locks, rounds
from ilf_jax.review.entries import Entry, Form, Span, compose, read
from ilf_jax.review.outbox import Outbox
from ilf_jax.review.store import ConflictError, NewItem, RefusedError, Store

pytestmark = pytest.mark.fast
SAID = Entry(feedback="Too long.")


@pytest.fixture
def make(tmp_path):
    stores = []

    def make_store(count=3, **form):
        store = Store(tmp_path / "review.sqlite", Form(**form))
        store.add_items("r", [NewItem(f"d{i}", f"document {i}", f"draft {i}") for i in range(count)], "here")
        stores.append(store)
        return store

    yield make_store
    for store in stores:
        store.close()


def act(store, number, reviewer, action="submit", entry=SAID):
    review = store.claim(number, reviewer)
    return store.act(store.item(number), reviewer, entry, action, base=review.revision, token=f"{review.revision}",
                     seconds=3)


def statuses(store, reviewer="ann"):
    return [status for _, status in store.queue(reviewer)]


def test_from_pending_to_submitted_and_back(make):
    store = make()
    item = store.item(store.claim_next("ann"))
    saved = store.save(item, "ann", SAID, base=0, token="t", seconds=2)
    assert (saved.status, saved.revision, saved.seconds) == ("draft", 1, 2)
    act(store, item.id, "ann")
    assert statuses(store) == ["submitted", "pending", "pending"]
    with pytest.raises(RefusedError, match="submitted; reopen it"):
        store.save(item, "ann", Entry(feedback="more"), base=2, token="u", seconds=0)
    act(store, item.id, "ann", "reopen")
    act(store, item.id, "ann", entry=Entry(feedback="Too long, and wrong."))
    history = store.history(store.review(item.id, "ann").id)
    assert [(row["action"], row["status"], row["entry"]["feedback"]) for row in history] == [
        ("submit", "draft", "Too long."), ("reopen", "submitted", "Too long."), ("submit", "draft", "Too long.")]
    assert store.review(item.id, "ann").seconds == 2 + 3 * 3


def test_undo_takes_back_one_action_at_a_time_and_no_words(make):
    store = make()
    act(store, 1, "ann")
    act(store, 2, "ann", "skip", Entry())
    act(store, 3, "ann", "flag")
    act(store, 2, "ann", "reopen", Entry())
    assert [store.undo("ann") for _ in range(5)] == [2, 3, 2, 1, None]
    assert statuses(store) == ["draft", "pending", "draft"]
    assert store.review(1, "ann").entry == SAID == store.review(3, "ann").entry


def test_a_save_is_taken_once_and_never_over_a_later_one(make):
    store = make()
    item = store.item(1)
    first = store.save(item, "ann", SAID, base=0, token="t", seconds=1)
    assert store.save(item, "ann", SAID, base=0, token="t", seconds=1) == first  # the answer was lost
    more = store.save(item, "ann", Entry(feedback="Too long. So"), base=0, token="t", seconds=1)
    assert (more.revision, more.entry.feedback) == (2, "Too long. So")
    with pytest.raises(ConflictError, match="another window"):
        store.save(item, "ann", Entry(feedback="old"), base=1, token="other", seconds=1)
    assert store.review(1, "ann") == more


def test_what_cannot_be_submitted(make):
    store = make()
    with pytest.raises(RefusedError, match="write feedback"):
        act(store, 1, "ann", entry=Entry(category="other"))
    store.add_items("pairs", [NewItem("1", "doc", "a", other="b", is_pair=True)], "here")
    with pytest.raises(RefusedError, match="which text is better"):
        act(store, 4, "ann")
    assert act(store, 4, "ann", entry=Entry(better="tie")).status == "submitted"


@pytest.mark.parametrize("overlap", [1, 2])
def test_items_are_shared_out(make, overlap):
    store = make(overlap=overlap)
    people = ("ann", "bob", "cid")
    for number in (1, 2, 3):
        for name in people[:overlap]:
            act(store, number, name)
    assert [len(store.queue(name)) for name in people] == [3] * overlap + [0] * (3 - overlap)
    with pytest.raises(ConflictError, match="others have taken"):
        act(store, 1, "cid")
    assert store.claim_next("cid") is None


def test_an_item_opened_by_one_is_not_offered_to_another_until_it_is_given_up(make, monkeypatch):
    store = make(count=1)
    assert store.claim_next("ann") == 1 and store.claim_next("bob") is None
    monkeypatch.setattr("ilf_jax.review.store.CLAIM_SECONDS", -1.0)
    assert store.claim_next("bob") == 1


def test_everything_survives_being_opened_again(make, tmp_path):
    act(make(), 1, "ann", entry=Entry("Zu lang – ‮é", "x", "other", "better", None, (Span(0, 5, "this"),)))
    again = Store(tmp_path / "review.sqlite", Form())
    assert again.review(1, "ann").entry == Entry("Zu lang – ‮é", "x", "other", "better", None, (Span(0, 5, "this"),))
    again.close()
    assert sqlite3.connect(tmp_path / "review.sqlite").execute("pragma integrity_check").fetchone() == ("ok",)


def test_another_text_under_an_id_is_refused(make):
    with pytest.raises(InputError, match="'d1' has another text"):
        make().add_items("r", [NewItem("d0", "document 0", "draft 0"), NewItem("d1", "document 1", "new")], "file")


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "review.sqlite"
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(InputError, match="damaged"):
        Store(path, Form())


def test_one_server_for_a_folder(tmp_path, monkeypatch):
    with locks.exclusive(tmp_path), pytest.raises(InputError, match="another reviewing server"):
        locks.exclusive(tmp_path).__enter__()
    with locks.exclusive(tmp_path):
        pass
    monkeypatch.setattr(locks.fcntl, "flock", lambda *a: None)  # as where locks are accepted and not kept
    with pytest.raises(InputError, match="without working locks"):
        locks.exclusive(tmp_path).__enter__()


def test_marked_parts_become_feedback():
    draft = "a 😀 smile, a frown"
    entry = Entry("Say less.", spans=(Span(2, 3, "no picture"), Span(5, 10, "")))
    assert compose(entry, draft) == 'Say less.\n"😀": no picture'
    assert compose(Entry(important="Who?"), draft) == "Who?"


@pytest.mark.parametrize(("value", "words"), [
    ([], "an object"), ({"feedbak": ""}, "unknown field"), ({"feedback": 3}, "is a text"),
    ({"feedback": "x" * 1_000_001}, "at most 1,000,000"), ({"feedback": "\ud800"}, "surrogate"),
    ({"feedback": "a\0b"}, "NUL"), ({"category": "bad"}, "allowed are coverage"), ({"category": ["x"]}, "allowed are"),
    ({"rating": 1}, "no rating"), ({"spans": [{"start": 0, "end": 9, "comment": ""}]}, "within the draft's 5"),
    ({"spans": [{"start": True, "end": 2, "comment": ""}]}, "within"), ({"spans": "ab"}, "is a list"),
    ({"spans": [{"start": 0, "end": 1}]}, "has start, end and comment"), ({"better": "C"}, "allowed are A, B, tie"),
    ({"criteria": {"style": "A"}}, "no criterion"),
])
def test_wrong_entries_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        read(value, Form(), "draft")


# Files.

def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bring(store, path, encoding="", replace=False):
    return exchange.import_reviews(store, list(exchange.read_rows(path, encoding)), replace)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_is_exported_can_be_brought_back(kind, make, tmp_path):
    store = make(overlap=2, rating=5)
    full = Entry('Say "who",\nand when; é', "who", "coverage", "Better.", 2, (Span(0, 5, "what?"),))
    act(store, 1, "ann", entry=full)
    act(store, 1, "bob")
    act(store, 2, "ann", "skip", Entry())
    act(store, 3, "bob", "flag", SAID)
    rows = exchange.review_rows(store)
    path = tmp_path / f"out.{kind}"
    text = exchange.to_csv(rows) if kind == "csv" else exchange.to_json_lines(rows)
    path.write_bytes(text.encode())
    other = Store(tmp_path / "other.sqlite", store.form)
    other.add_items("r", [NewItem(f"d{i}", f"document {i}", f"draft {i}") for i in range(3)], "here")
    assert bring(other, path) == 4 == bring(other, path)
    assert exchange.review_rows(other) == rows
    other.close()


def test_nothing_stored_is_replaced_unless_asked_for(make, tmp_path):
    store = make()
    act(store, 2, "ann")
    path = write(tmp_path / "in.jsonl", {"id": "d0", "feedback": "New."},
                 {"id": "d1", "feedback": "New.", "reviewer": "ann"})
    with pytest.raises(InputError, match=r"in\.jsonl:2: 'ann' has reviewed 'd1' already; --replace"):
        bring(store, path)
    assert store.reviews(1) == []  # none of the file
    assert bring(store, path, replace=True) == 2
    assert store.review(2, "ann").entry.feedback == "New."
    assert store.history(store.review(2, "ann").id)[0]["entry"] == {"feedback": "Too long."}


@pytest.mark.parametrize(("row", "words"), [
    ({"id": "d9"}, "no item with the id 'd9'"), ({"id": "d0", "draft": "x"}, "another draft"),
    ({"id": "d0", "class": "bad"}, "category is 'bad'"), ({"id": "d0", "status": "done"}, "allowed are pending"),
    ({"id": "d0", "status": "submitted"}, "write feedback"), ({"id": "d0", "seconds": "x"}, "could not convert"),
    ({"id": "d0", "spans": "["}, "spans is not JSON"), ({"id": "d0", "feedback": "x", "reviewer": "\x07"}, "printable"),
    ({"id": "d1", "feedback": "again"}, "appears twice"),
])
def test_wrong_rows_are_named(row, words, make, tmp_path):
    path = write(tmp_path / "in.jsonl", {"id": "d1", "feedback": "fine"}, row)
    with pytest.raises(InputError, match=rf"in\.jsonl:2: .*{words}"):
        bring(make(), path)


def test_encodings(make, tmp_path):
    store, text = make(), 'id,feedback\nd0,"Kürzer, bitte"\n'
    path = tmp_path / "in.csv"
    for encoding, words in (("cp1252", r"in\.csv:2: is not UTF-8 .*--encoding=cp1252"), ("utf-16", "is UTF-16")):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match=words):
            bring(store, path)
        assert bring(store, path, encoding) == 1
        assert store.review(1, exchange.BY_HAND).entry.feedback == "Kürzer, bitte"
    path.write_bytes(text.encode("utf-8-sig"))
    assert bring(store, path) == 1
    with pytest.raises(InputError, match="--encoding=utf-99: is not known"):
        bring(store, path, "utf-99")
    path.write_text('id,feedback\nd0,"x\n')
    with pytest.raises(InputError, match=r"in\.csv:2: is not CSV"):
        bring(store, path)
    path.write_text("id,feedback\nd0\n")
    with pytest.raises(InputError, match=r"in\.csv:2: has 1 cells"):
        bring(store, path)


def test_data_of_the_users_own(tmp_path):
    path = write(tmp_path / "data.jsonl", {"article": "Long.", "out": {"text": "Short."}, "feedback": "Fine."},
                 {"article": "L", "out": {"text": "S"}, "id": "x"})
    fields = {"document": "article", "draft": "out.text"}
    found = rounds.of_data(path, fields, "", tmp_path / "reviews.jsonl")
    assert [(item.key, item.document, item.draft) for item in found.items] == [
        ("row-000001", "Long.", "Short."), ("x", "L", "S")]
    store = Store(tmp_path / "review.sqlite", Form())
    found.enter(store)
    found.enter(store)
    assert statuses(store, exchange.BY_HAND) == ["submitted", "pending"]
    store.close()
    with pytest.raises(InputError, match=r"data\.jsonl:1: has no 'draft'; name the field .*--fields=draft=PATH"):
        rounds.of_data(path, {"document": "article"}, "", tmp_path)


# What the run reads.

def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_submission_is_in_the_file_before_it_is_acknowledged(make, tmp_path):
    store = make()
    results = tmp_path / "out" / "reviews.jsonl"
    round_ = rounds.Round("r", tmp_path, [], [], results)
    outbox = Outbox(store, [round_])
    assert not results.exists()
    results.parent.mkdir()
    for number, action in ((1, "submit"), (2, "skip"), (1, "reopen")):
        act(store, number, "ann", action)
        outbox.note(number)
    assert [(row["id"], row["status"], row["feedback"]) for row in lines(results)] == [
        ("d0", "submitted", "Too long."), ("d1", "skipped", ""), ("d0", "pending", "")]
    outbox.close()
    Outbox(store, [round_]).close()
    assert [(row["id"], row["status"]) for row in lines(results)] == [("d1", "skipped")]


def test_of_two_reviews_the_first_counts_until_another_is_chosen(make):
    store = make(overlap=2)
    act(store, 1, "ann")
    item = store.item(1)

    def outcome():
        status, review = exchange.outcome(item, store.reviews(1), store.decisions().get(1), 2)
        return status, review and review.reviewer

    assert outcome() == ("pending", None)
    bob = act(store, 1, "bob", entry=Entry("Wrong."))
    assert outcome() == ("submitted", "ann")
    store.decide(1, bob.id, "cid")
    assert outcome() == ("submitted", "bob")
    act(store, 2, "ann", "skip")
    with pytest.raises(RefusedError):
        store.decide(2, store.review(2, "ann").id, "cid")


def test_answers_go_into_the_file_of_pairs(tmp_path):
    pairs = [{"pair": n, "document": "doc", "A": f"a{n}", "B": f"b{n}", "better": ""} for n in (1, 2, 3, 4)]
    path = write(tmp_path / "pairs.jsonl", *pairs[:3], {**pairs[3], "better": "B", "criteria": {"style": "tie"}})
    with pytest.raises(InputError, match=r"pairs\.jsonl:4: there is no criterion 'style'; there are none \(config"):
        rounds.of_pairs(path).enter(Store(tmp_path / "other.sqlite", Form()))
    store = Store(tmp_path / "review.sqlite", Form(overlap=2, criteria=("style", "length")))
    round_ = rounds.of_pairs(path)
    round_.enter(store)
    outbox = Outbox(store, [round_])
    for number, answers in ((1, "AA"), (2, "AB"), (3, "A")):
        for name, better in zip(("ann", "bob"), answers, strict=False):
            criteria = {"style": better} if name == "ann" or number == 2 else {"style": "tie", "length": "B"}
            act(store, number, name, entry=Entry(better=better, criteria=criteria))
            outbox.note(number)
    outbox.close()
    store.close()
    assert [row["better"] for row in lines(path)] == ["A", "tie", "", "B"]
    assert [row["criteria"] for row in lines(path)] == [
        {"style": "A", "length": "B"}, {"style": "tie"}, {}, {"style": "tie"}]


def test_a_file_of_pairs_without_criteria_gets_none(tmp_path):
    row = {"pair": 1, "document": "doc", "A": "a", "B": "b", "better": ""}
    path = write(tmp_path / "pairs.jsonl", row)
    store = Store(tmp_path / "review.sqlite", Form())
    round_ = rounds.of_pairs(path)
    round_.enter(store)
    act(store, 1, "ann", entry=Entry(better="A"))
    Outbox(store, [round_]).close()
    store.close()
    assert lines(path) == [{**row, "better": "A"}]
