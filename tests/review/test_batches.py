"""The one writer, and what the store knows of queues without a query: both as if each change came alone."""

import asyncio
import random
import sqlite3
import threading

import pytest

from ilf_jax.review.batches import Batches
from ilf_jax.review.entries import STATUSES, SUBMITTED, Entry, Form
from ilf_jax.review.store import ACTIONS, ConflictError, NewItem, RefusedError, Store

pytestmark = pytest.mark.fast


def make_store(folder, count=5, **form):
    store = Store(folder / "review.sqlite", Form(**form))
    store.add_items("r", [NewItem(f"d{i}", f"document {i}", f"draft {i}") for i in range(count)], "here")
    return store


class Slow:
    """A writer whose thread is held up until all jobs are there, so that they make one transaction."""

    def __init__(self, store):
        self.noted, self.busy, self.go = [], threading.Event(), threading.Event()
        self.batches = Batches(store, self.noted.append)

    def carry_out(self, *works):
        async def ask():
            first = asyncio.create_task(self.batches.run(lambda: (self.busy.set(), self.go.wait())))
            while not self.busy.is_set():
                await asyncio.sleep(0)
            asked = [asyncio.create_task(self.batches.run(work)) for work in works]
            await asyncio.sleep(0)  # each has put its job into the queue
            self.go.set()
            await first
            return await asyncio.gather(*asked, return_exceptions=True)

        return asyncio.run(ask())


def submitting(store, batches, number, text="Too long.", base=0):
    def work():
        review = store.act(store.item(number), "ann", Entry(text), "submit", base=base, token=f"{number}", seconds=1)
        batches.note(number)
        return review.status
    return work


def test_one_refused_change_takes_no_other_along(tmp_path):
    store = make_store(tmp_path)
    slow = Slow(store)
    commits = []
    store._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "commit" else None)

    def half():
        store.act(store.item(2), "ann", Entry("half"), "submit", base=0, token="t", seconds=1)
        raise ValueError("half-way")

    found = slow.carry_out(submitting(store, slow.batches, 1), half, submitting(store, slow.batches, 3, base=7),
                           submitting(store, slow.batches, 4))
    slow.batches.close()
    assert found[0] == found[3] == SUBMITTED
    assert isinstance(found[1], ValueError) and isinstance(found[2], ConflictError)
    assert slow.noted == [[1, 4]] and len(commits) == 2  # the first job's, and that of all others
    assert [(r.item, r.status) for r in store.reviews()] == [(1, SUBMITTED), (4, SUBMITTED)]
    assert [number for number, status in store.queue("ann") if status == SUBMITTED] == [1, 4]
    store.close()


def test_what_cannot_be_committed_is_acknowledged_to_nobody(tmp_path):
    store = make_store(tmp_path)
    slow = Slow(store)
    pages = store._db.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count = {pages}")
    store._db.execute("pragma cache_size = 1000000")
    found = slow.carry_out(*(submitting(store, slow.batches, number, "y" * 100_000) for number in (1, 2, 3)))
    slow.batches.close()
    assert all(isinstance(error, sqlite3.OperationalError) for error in found) and slow.noted == []
    assert store.reviews() == [] and {status for _, status in store.queue("ann")} == {"pending"}
    store.close()


@pytest.mark.parametrize("overlap", [1, 2])
def test_queues_and_outcomes_are_those_of_the_stored_reviews(overlap, tmp_path):
    """Any series of actions, some of them taken back, against a store that was opened anew."""
    rng, store = random.Random(overlap), make_store(tmp_path, 6, overlap=overlap)
    people = ("ann", "bob", "cid")
    for step in range(120):
        item, reviewer = store.item(rng.randint(1, 6)), rng.choice(people)
        try:
            with store.change(), store.savepoint():
                found = store.claim(item.id, reviewer)
                store.act(item, reviewer, Entry("x"), rng.choice(list(ACTIONS)), base=found.revision, token=f"{step}",
                          seconds=1)
                if rng.random() < 0.2:
                    store.undo(reviewer)
                if rng.random() < 0.2 and store.review(item.id, reviewer).status == SUBMITTED:
                    store.decide(item.id, found.id, reviewer)
                if rng.random() < 0.2:
                    store.set_gain(item.id, rng.random())
                store.queue(reviewer)
                if rng.random() < 0.3:
                    raise RefusedError("taken back")
        except (RefusedError, ConflictError):
            pass
        if step % 10 == 0:
            again = Store(tmp_path / "review.sqlite", Form(overlap=overlap))
            for name in people:
                for by_gain in (False, True):
                    assert store.queue(name, by_gain) == again.queue(name, by_gain), step
            outcomes = again.outcomes(["r"])
            assert store.outcomes(["r"]) == outcomes and outcomes.total() == 6 and set(outcomes) <= set(STATUSES)
            again.close()
    assert store.queue("ann") != store.queue("ann", by_gain=True)
    store.close()
