"""The reviewing page's SQLite file: its tables, one connection, one writer, and the sessions of browsers.

Every change is one transaction behind a lock. With synchronous=FULL, what was acknowledged survives a kill of the
process and a loss of power.
"""

import contextlib
import pathlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

from ilf_jax.errors import InputError

FORMAT = "1"
LONGEST_NAME = 60
_SESSION_SECONDS = 30 * 86400.0
_SCHEMA = """
create table meta (name text primary key, value text not null) strict;
create table items (
  id integer primary key, round text not null, key text not null, is_pair integer not null, title text not null,
  document text not null, draft text not null, other text not null, gain real,
  unique (round, key)) strict;
create table reviews (
  id integer primary key, item integer not null references items (id), reviewer text not null, status text not null,
  entry text not null, seconds real not null, revision integer not null, token text not null, changed real not null,
  submitted real, unique (item, reviewer)) strict;
create index reviews_of_reviewer on reviews (reviewer, status);
create table history (
  id integer primary key, review integer not null references reviews (id), action text not null, status text not null,
  entry text not null, at real not null) strict;
create index history_of_review on history (review);
create table decisions (
  item integer primary key references items (id), review integer not null references reviews (id),
  reviewer text not null, at real not null) strict;
create table sessions (hash text primary key, reviewer text not null, began real not null) strict;
"""


class Database:
    """The file, open until `close`. Methods may be called from any thread."""

    def __init__(self, path: pathlib.Path) -> None:
        """Opens the file, or makes it.

        Raises:
            InputError: it is damaged, of another version, or on a file system without what SQLite's WAL takes.
        """
        self.path = path
        self._lock = threading.RLock()
        self._sessions: dict[str, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.row_factory = sqlite3.Row
            mode = self._db.execute("pragma journal_mode = wal").fetchone()[0]
            if mode != "wal":
                raise InputError(f"{path}: the file system has no shared memory for SQLite's write-ahead log (as "
                                 "network file systems); name a folder of a local disk with --state=DIR")
            self._db.execute("pragma synchronous = full")
            self._db.execute("pragma foreign_keys = on")
            self._create()
            self._load_sessions()
        except sqlite3.DatabaseError as e:
            raise InputError(f"{path}: is not a store of reviews, or damaged ({e}); restore it from a copy, or name "
                             "another folder") from e

    def _create(self) -> None:
        with self.change():
            if not self._db.execute("select 1 from sqlite_master where name = 'meta'").fetchone():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute("insert into meta values ('format', ?)", (FORMAT,))
            found = self._db.execute("select value from meta where name = 'format'").fetchone()
        if found is None or found[0] != FORMAT:
            raise InputError(f"{self.path}: was written by another version of ilf-jax")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    @property
    def in_transaction(self) -> bool:
        """Whether changes are under way that are not on the disk."""
        return self._db.in_transaction

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside `change`: an exception takes back what was changed in here, and no more."""
        self._db.execute("savepoint part")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback to part")
                self._db.execute("release part")
            self.taken_back()
            raise
        self._db.execute("release part")

    def stored(self) -> None:
        """Called when changes are on the disk, while others wait."""

    def taken_back(self) -> None:
        """Called when changes were taken back, while others wait."""

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Inside, one transaction; an exception takes it back. One inside another is a part of it."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
                self.stored()
            except BaseException:
                if self._db.in_transaction:  # a full disk rolls back by itself
                    self._db.execute("rollback")
                self.taken_back()
                raise

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """What a query gives."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def meta(self, name: str, default: str) -> str:
        """A value by name; `default` is stored where there is none."""
        with self.change():
            self._db.execute("insert or ignore into meta values (?, ?)", (name, default))
            return self._db.execute("select value from meta where name = ?", (name,)).fetchone()[0]

    def add_session(self, hashed: str, reviewer: str) -> None:
        """Notes a browser that showed the token."""
        with self.change():
            self._db.execute("delete from sessions where began < ?", (time.time() - _SESSION_SECONDS,))
            self._db.execute("insert into sessions values (?, ?, ?)", (hashed, reviewer, time.time()))
        self._load_sessions()

    def _load_sessions(self) -> None:
        self._sessions = {row[0]: row[1] for row in self.rows("select hash, reviewer from sessions")}

    def reviewer_of_session(self, hashed: str) -> str | None:
        """Who sits at a browser; None: it has not shown the token. Waits for nobody: each request asks."""
        return self._sessions.get(hashed)

    def set_reviewer(self, hashed: str, reviewer: str) -> None:
        """Another person sits down at a browser."""
        with self.change():
            self._db.execute("update sessions set reviewer = ? where hash = ?", (reviewer, hashed))
        self._load_sessions()


def check_name(name: str) -> str:
    """A reviewer's name. Raises ValueError if it is empty, too long or has characters that are not to be printed."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a reviewer's name has 1 to {LONGEST_NAME} printable characters")
    return name
