"""Leaves what people said where others read it: in reviews.jsonl of the iteration or file, or in the file of pairs."""

import json
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from ilf_jax.data import judged_pairs
from ilf_jax.errors import InputError
from ilf_jax.review import entries, exchange
from ilf_jax.review.rounds import Round
from ilf_jax.review.store import Item, Review, Store
from ilf_jax.runtime import progress, storage
from ilf_jax.runtime.files import write_atomically
from ilf_jax.runtime.os_errors import explained

_PAUSE = 1.0  # seconds between two writes of a whole file


class Outbox:
    """One for the rounds that are open now. Methods may be called from any thread."""

    def __init__(self, store: Store, rounds: Sequence[Round]) -> None:
        """Brings the files up to date with the store. Raises InputError if one cannot be written."""
        self._store = store
        self._rounds = {r.name: r for r in rounds}
        self._written: dict[int, str] = {}
        self._waiting: set[int] = set()
        self._stale: set[str] = set()
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), threading.Event()
        for round_ in rounds:
            self._rewrite(round_)
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def note(self, *items: int) -> None:
        """Items have changed. On a local disk, their lines are written before this returns.

        Raises:
            InputError: it cannot be written; it is tried again with the next item.
        """
        with self._lock:
            self._waiting |= set(items)
            by_round: dict[str, list[Item]] = {}
            for item in filter(None, map(self._store.item, sorted(self._waiting))):
                by_round.setdefault(item.round, []).append(item)
            for name, of_round in by_round.items():
                round_ = self._rounds.get(name)
                if round_ is not None and round_.by_line and storage.is_local(round_.results):
                    self._append(round_, of_round)
                elif round_ is not None:
                    self._stale.add(name)
                self._waiting -= {item.id for item in of_round}
        if self._stale:
            self._wake.set()

    def flush(self) -> None:
        """Writes what waits. Raises InputError if it cannot be written."""
        with self._lock:
            for name in sorted(self._stale):
                self._rewrite(self._rounds[name])
                self._stale.discard(name)

    def close(self) -> None:
        """Writes what waits, and ends."""
        self._ended.set()
        self._wake.set()
        self._thread.join()
        self.flush()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except InputError as e:
                progress.log(f"{e}; tried again with the next change")
            self._ended.wait(_PAUSE)

    def _append(self, round_: Round, items: Sequence[Item]) -> None:
        lines = {}
        for item in items:
            row = exchange.outcome_row(item, self._store.reviews(item.id), self._store.decision(item.id),
                                       self._store.form.overlap)
            line = json.dumps(row, ensure_ascii=False) + "\n"
            if self._written.get(item.id) != line and (item.id in self._written or row["status"] != entries.PENDING):
                lines[item.id] = line
        if not lines:
            return
        path = pathlib.Path(round_.results)
        with explained(path), path.open("ab") as f:
            size = f.tell()
            try:
                f.write("".join(lines.values()).encode())
                f.flush()
                os.fsync(f.fileno())
            except OSError:
                os.truncate(path, size)  # a part of a line would spoil the next
                raise
        self._written |= lines

    def _rewrite(self, round_: Round) -> None:
        if not round_.by_line:
            _write_answers(round_, self._store)
            return
        decisions, lines = self._store.decisions(), []
        by_item: dict[int, list[Review]] = {}
        for review in self._store.reviews():
            by_item.setdefault(review.item, []).append(review)
        for item in self._store.items(round_.name):
            row = exchange.outcome_row(item, by_item.get(item.id, []), decisions.get(item.id),
                                       self._store.form.overlap)
            if row["status"] != entries.PENDING:
                self._written[item.id] = json.dumps(row, ensure_ascii=False) + "\n"
                lines.append(self._written[item.id])
        if lines or round_.results.exists():
            write_atomically(round_.results, "".join(lines))


def _write_answers(round_: Round, store: Store) -> None:
    """Fills `better` and `criteria` of a file of pairs: what was decided, else what most say; a draw is a tie."""
    decisions = store.decisions()
    answers: dict[str, dict[str, Any]] = {}
    for item in store.items(round_.name):
        status, counts = exchange.outcome(item, store.reviews(item.id), decisions.get(item.id), store.form.overlap)
        if status == entries.SUBMITTED and counts is not None:
            said = [counts] if item.id in decisions else store.reviews(item.id)
        else:  # what somebody wrote into the file stays there
            said = [r for r in store.reviews(item.id) if r.reviewer == exchange.BY_HAND]
        given = [r.entry for r in said if r.status == entries.SUBMITTED]
        names = dict.fromkeys(name for entry in given for name in entry.criteria)
        answers[item.key] = {"better": _majority([entry.better for entry in given]) if given else "", "criteria": {
            name: _majority([entry.criteria[name] for entry in given if name in entry.criteria]) for name in names}}
    path = pathlib.Path(round_.results)
    rows = [{**row, "better": "", "criteria": {}, **answers.get(str(row["pair"]), {})}
            for _, row in judged_pairs.read_pairs(path)]
    if not any(row["criteria"] for row in rows):  # nobody was asked: the file stays as it was exported
        rows = [{name: value for name, value in row.items() if name != "criteria"} for row in rows]
    write_atomically(path, exchange.to_json_lines(rows))


def _majority(answers: Sequence[str]) -> str:
    share = sum(judged_pairs.ANSWERS[answer] for answer in answers) / len(answers)
    return "A" if share > 0.5 else "B" if share < 0.5 else "tie"


