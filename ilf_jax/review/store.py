"""Items, reviewers, what they wrote, and its history."""

import dataclasses
import json
import pathlib
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.review import entries
from ilf_jax.review.board import Board
from ilf_jax.review.database import Database
from ilf_jax.review.entries import DRAFT, FLAGGED, PENDING, SKIPPED, SUBMITTED, Entry, Form

CLAIM_SECONDS = 15 * 60.0
"""How long an item that somebody opened, but said nothing of, is kept for them."""
ACTIONS = {"submit": SUBMITTED, "skip": SKIPPED, "flag": FLAGGED, "reopen": DRAFT}
"""What a reviewer does with an item -> the status that it then has."""
_ACTION_TO = {status: action for action, status in ACTIONS.items()}
_MOST_SECONDS_A_SAVE = 120.0


class ConflictError(Exception):
    """A change that no longer fits: another window saved later, or the item has its reviewers."""


class RefusedError(Exception):
    """A change that is not allowed; the message is for the reviewer."""


@dataclasses.dataclass(frozen=True)
class NewItem:
    """An item to be put into the store. `other` is text B of a pair, and `draft` then text A."""

    key: str
    document: str
    draft: str
    title: str = ""
    other: str = ""
    is_pair: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of the store. `gain`: how much refinements of it differ, None where that was not measured."""

    id: int
    round: str
    key: str
    is_pair: bool
    title: str
    document: str
    draft: str
    other: str
    gain: float | None


@dataclasses.dataclass(frozen=True)
class Review:
    """One reviewer's work on one item.

    Attributes:
        revision: counts its saves; a save names the one that it was made from.
        seconds: spent on it.
        submitted: when, in seconds since 1970; None unless it is.
        token: of its last save.
    """

    id: int
    item: int
    reviewer: str
    status: str
    entry: Entry
    seconds: float
    revision: int
    submitted: float | None
    token: str = ""


class Store(Database):
    """The file of one work folder, open until `close`. Methods may be called from any thread."""

    def __init__(self, path: pathlib.Path, form: Form) -> None:
        """Opens the file, or makes it. Raises InputError as `Database`."""
        self.form = form
        self.open_rounds: frozenset[str] | None = None  # what queues are made from; None: all
        self._board: Board | None = None
        self._changed: set[int] = set()  # items that the board does not show as they are now
        self._uncommitted: set[int] = set()
        super().__init__(path)

    def _touch(self, item: int) -> None:
        """Called in a transaction that changes an item or its reviews."""
        self._changed.add(item)
        self._uncommitted.add(item)

    def stored(self) -> None:
        """See `Database`."""
        self._uncommitted.clear()

    def taken_back(self) -> None:
        """See `Database`."""
        self._changed |= self._uncommitted

    def _shown(self) -> Board:
        """The board as things are now. The caller holds the lock."""
        if self._board is None:
            self._board = Board(self.form.overlap)
            self._changed = {row[0] for row in self.rows("select distinct item from reviews")}
            for number, round_, gain in self.rows("select id, round, gain from items order by id"):
                self._board.put_item(number, round_, gain)
        for number in self._changed:
            (item,) = self.rows("select round, gain from items where id = ?", number)
            self._board.put_item(number, *item)
            reviews = {name: (status, changed) for name, status, changed in self.rows(
                "select reviewer, status, changed from reviews where item = ?", number)}
            self._board.put_reviews(number, reviews, self.decision(number) is not None)
        self._changed.clear()
        return self._board

    # Items.

    def add_items(self, round_: str, new: Iterable[NewItem], where: str) -> int:
        """Puts items of a round in; those that are there stay. Returns how many are new.

        Raises:
            InputError: an item is there with another text.
        """
        count = 0
        with self.change():
            for item in new:
                row = self._db.execute("select draft, other from items where round = ? and key = ?",
                                       (round_, item.key)).fetchone()
                if row is None:
                    self._db.execute(
                        "insert into items (round, key, is_pair, title, document, draft, other) values (?,?,?,?,?,?,?)",
                        (round_, item.key, item.is_pair, item.title, item.document, item.draft, item.other))
                    count += 1
                    self._board = None
                elif (row["draft"], row["other"]) != (item.draft, item.other):
                    raise InputError(f"{where}: item {item.key!r:.60} has another text than in {self.path}, where it "
                                     "may have been reviewed; restore the file, or name another folder for the store")
        return count

    def item(self, number: int) -> Item | None:
        """An item by its number."""
        rows = self.rows("select * from items where id = ?", number) if number < 2**63 else []
        return _item(rows[0]) if rows else None

    def items(self, round_: str | None = None, short: bool = False) -> list[Item]:
        """All items, or those of a round, in their order; `short`: their texts cut, for lists."""
        columns = _SHORT if short else "i.*"
        if round_ is None:
            return [_item(row) for row in self.rows(f"select {columns} from items i order by id")]
        return [_item(row) for row in self.rows(f"select {columns} from items i where round = ? order by id", round_)]

    def rounds(self) -> list[str]:
        """Rounds (iterations of the run, or files) in the order in which they came."""
        return [row[0] for row in self.rows("select round from items group by round order by min(id)")]

    def set_gain(self, number: int, gain: float) -> None:
        """Notes how much refinements of an item differ."""
        with self.change():
            self._db.execute("update items set gain = ? where id = ?", (gain, number))
            self._touch(number)

    # Reviews.

    def review(self, item: int, reviewer: str) -> Review | None:
        """What a reviewer wrote of an item."""
        rows = self.rows("select * from reviews where item = ? and reviewer = ?", item, reviewer)
        return _review(rows[0]) if rows else None

    def reviews(self, item: int | None = None) -> list[Review]:
        """All reviews, or those of an item, oldest first."""
        if item is None:
            return [_review(row) for row in self.rows("select * from reviews order by id")]
        return [_review(row) for row in self.rows("select * from reviews where item = ? order by id", item)]

    def queue(self, reviewer: str, by_gain: bool = False) -> list[tuple[int, str]]:
        """The numbers of the items that a reviewer may work on, and their status; not those that others have."""
        with self._lock:
            return self._shown().queue(reviewer, self.open_rounds, by_gain, _since())

    def outcomes(self, rounds: Collection[str]) -> Counter[str]:
        """What the items of these rounds have come to (`entries.status_of`) -> how many have."""
        with self._lock:
            return self._shown().outcomes(rounds)

    def claim_next(self, reviewer: str, after: int = 0, by_gain: bool = False) -> int | None:
        """The next item that waits for this reviewer, after another, else from the start; it is kept for them."""
        with self.change():
            waiting = [number for number, status in self.queue(reviewer, by_gain) if status in (PENDING, DRAFT)]
            if not waiting:
                return None
            later = [] if by_gain else [number for number in waiting if number > after]
            chosen = (later or [number for number in waiting if number != after] or waiting)[0]
            self._claim(chosen, reviewer)
            return chosen

    def claim(self, item: int, reviewer: str) -> Review:
        """The reviewer's review of an item, begun where they have none.

        Raises:
            ConflictError: the item has its reviewers.
        """
        with self.change():
            return self._claim(item, reviewer)

    def _claim(self, item: int, reviewer: str) -> Review:
        found = self.review(item, reviewer)
        now = time.time()
        if found is None:
            if self.item(item) is None:
                raise RefusedError("there is no such item")
            taken = self.rows(f"select count(*) from reviews o where o.item = ?1 and o.reviewer <> ?2 and {_HELD}",
                              item, reviewer, _since())[0][0]
            if taken >= self.form.overlap:
                raise ConflictError("others have taken this item")
            self._db.execute(
                "insert into reviews (item, reviewer, status, entry, seconds, revision, token, changed) "
                "values (?, ?, ?, '{}', 0, 0, '', ?)", (item, reviewer, PENDING, now))
            self._touch(item)
        elif found.status == PENDING:
            self._db.execute("update reviews set changed = ? where id = ?", (now, found.id))
            self._touch(item)
        review = self.review(item, reviewer)
        assert review is not None
        return review

    def save(self, item: Item, reviewer: str, entry: Entry, *, base: int, token: str, seconds: float) -> Review:
        """Saves what has been written so far.

        Args:
            base: the revision that it was made from.
            token: of this save; where the answer was lost, it may be sent again.
            seconds: spent since the save before.

        Raises:
            ConflictError: another window has saved since, or the item has its reviewers.
            RefusedError: the review is submitted, skipped or flagged.
        """
        with self.change():
            return self._write(item, reviewer, entry, "", base, token, seconds)

    def act(self, item: Item, reviewer: str, entry: Entry, action: str, *, base: int, token: str,
            seconds: float) -> Review:
        """Saves an entry and submits, skips, flags or reopens the item (`ACTIONS`); see `save`.

        Raises:
            ConflictError: as `save`.
            RefusedError: the entry cannot be submitted as it is.
        """
        wrong = entries.problem_of_submission(entry, item.draft, item.is_pair) if action == "submit" else None
        if wrong:
            raise RefusedError(wrong)
        with self.change():
            return self._write(item, reviewer, entry, action, base, token, seconds)

    def _write(self, item: Item, reviewer: str, entry: Entry, action: str, base: int, token: str,
               seconds: float) -> Review:
        review = self._claim(item.id, reviewer)
        if review.token == token and review.revision == base + 1:  # this save again, perhaps with more in it
            if review.entry == entry and action in ("", _ACTION_TO.get(review.status)):
                return review
        elif review.revision != base:
            raise ConflictError("another window has saved this item since; reload the page to see it")
        now = time.time()
        if not action:
            if review.status not in (PENDING, DRAFT):
                raise RefusedError(f"the item is {review.status}; reopen it to change it")
            status = PENDING if entry.empty else DRAFT
        else:
            status = ACTIONS[action]
            # The history holds what stood before, so that an undo finds it.
            self._db.execute("insert into history (review, action, status, entry, at) values (?, ?, ?, ?, ?)",
                             (review.id, action, review.status, _dump(review.entry), now))
        self._db.execute(
            "update reviews set status = ?, entry = ?, seconds = seconds + ?, revision = revision + 1, token = ?, "
            "changed = ?, submitted = ? where id = ?",
            (status, _dump(entry), min(max(seconds, 0.0), _MOST_SECONDS_A_SAVE), token, now,
             now if status == SUBMITTED else None, review.id))
        self._touch(item.id)
        written = self.review(item.id, reviewer)
        assert written is not None
        return written

    def undo(self, reviewer: str) -> int | None:
        """Takes a reviewer's last submit, skip, flag or reopening back. Returns its item; None: there is none.

        The entry stays as it is now: undoing an action never loses words.
        """
        with self.change():
            last = self.rows(
                "select h.id, h.status, r.id as review, r.item, r.entry, r.status as now from history h join reviews r "
                f"on r.id = h.review where r.reviewer = ? and h.action in ({', '.join('?' * len(ACTIONS))}) "
                "order by h.id desc limit 1", reviewer, *ACTIONS)
            if not last:
                return None
            row, now = last[0], time.time()
            status = DRAFT if row["status"] == PENDING and row["entry"] != "{}" else row["status"]
            self._db.execute("update history set action = action || ' (undone)' where id = ?", (row["id"],))
            self._db.execute("insert into history (review, action, status, entry, at) values (?, 'undo', ?, ?, ?)",
                             (row["review"], row["now"], row["entry"], now))
            self._db.execute(
                "update reviews set status = ?, revision = revision + 1, changed = ?, submitted = ? where id = ?",
                (status, now, now if status == SUBMITTED else None, row["review"]))
            self._touch(row["item"])
            return row["item"]

    def history(self, review: int) -> list[dict[str, Any]]:
        """What happened to a review, newest first: action, the status and entry before it, and when."""
        return [{**dict(row), "entry": json.loads(row["entry"])} for row in self.rows(
            "select action, status, entry, at from history where review = ? order by id desc", review)]

    def put(self, item: Item, reviewer: str, entry: Entry, status: str, seconds: float, replace: bool) -> bool:
        """Puts a review from a file in. Returns whether it did: without `replace` nothing that is there changes."""
        with self.change():
            found = self.review(item.id, reviewer)
            if found is not None and (found.status, found.entry) == (status, entry):
                return True
            if found is not None and found.status != PENDING and not replace:
                return False
            now = time.time()
            if found is not None:
                self._db.execute("insert into history (review, action, status, entry, at) values (?, 'import', ?, ?, "
                                 "?)", (found.id, found.status, _dump(found.entry), now))
            self._db.execute(
                "insert into reviews (item, reviewer, status, entry, seconds, revision, token, changed, submitted) "
                "values (?1, ?2, ?3, ?4, ?5, 1, '', ?6, ?7) on conflict (item, reviewer) do update set status = ?3, "
                "entry = ?4, seconds = ?5, revision = revision + 1, token = '', changed = ?6, submitted = ?7",
                (item.id, reviewer, status, _dump(entry), seconds, now, now if status == SUBMITTED else None))
            self._touch(item.id)
            return True

    # Adjudication.

    def decide(self, item: int, review: int, reviewer: str) -> None:
        """Notes which of several reviews of an item counts. Raises RefusedError if it is not a submitted one of it."""
        with self.change():
            fits = self.rows("select 1 from reviews where id = ? and item = ? and status = ?", review, item, SUBMITTED)
            if not fits:
                raise RefusedError("only a submitted review of this item can be chosen")
            self._db.execute("insert or replace into decisions values (?, ?, ?, ?)",
                             (item, review, reviewer, time.time()))
            self._touch(item)

    def decision(self, item: int) -> int | None:
        """The review of an item that somebody chose, if any."""
        rows = self.rows("select review from decisions where item = ?", item)
        return rows[0][0] if rows else None

    def decisions(self) -> dict[int, int]:
        """Item -> the review that somebody chose."""
        return {row[0]: row[1] for row in self.rows("select item, review from decisions")}


_SHORT = ("i.id, i.round, i.key, i.is_pair, i.title, substr(i.document, 1, 200) as document, "
          "substr(i.draft, 1, 200) as draft, '' as other, i.gain")
# A review holds its item if something was said, or the item was opened not long ago (?3).
_HELD = f"(o.status <> '{PENDING}' or o.changed > ?3)"


def _since() -> float:
    return time.time() - CLAIM_SECONDS


def _dump(entry: Entry) -> str:
    return json.dumps(entry.to_json(), ensure_ascii=False)


def entry_from_json(value: Mapping[str, Any]) -> Entry:
    """An entry as the store holds it; it was checked before it was written."""
    spans = tuple(entries.Span(**span) for span in value.get("spans", ()))
    return Entry(**{**value, "spans": spans})


def _item(row: sqlite3.Row) -> Item:
    return Item(row["id"], row["round"], row["key"], bool(row["is_pair"]), row["title"], row["document"], row["draft"],
                row["other"], row["gain"])


def _review(row: sqlite3.Row) -> Review:
    return Review(row["id"], row["item"], row["reviewer"], row["status"], entry_from_json(json.loads(row["entry"])),
                  row["seconds"], row["revision"], row["submitted"], row["token"])
