"""A server that is killed while people type, and one with many reviewers at once, in processes of their own.

--review_kills=50 and --review_items=2000 are the long series; the times of the saves are printed, see pytest -s.
"""

import asyncio
import http.client
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import statistics
import threading
import time

import pytest
import uvicorn

from ilf_jax.review.desk import Desk
from ilf_jax.review.entries import Form
from ilf_jax.review.guards import Access, Limits, RateLimit
from ilf_jax.review.rounds import Round
from ilf_jax.review.store import NewItem, Store
from ilf_jax.review.web_app import make_app

TOKEN = "for-all-scripted-reviewers"


def _serve(folder, count, pipe):
    store = Store(folder / "review.sqlite", Form())
    items = [NewItem(f"d{i}", f"document {i}", f"draft {i}") for i in range(count)]
    desk = Desk(store, [Round("r", folder, items, [], folder / "reviews.jsonl")])
    config = uvicorn.Config(None, port=0, log_level="warning", lifespan="off", ws="none")
    listening = config.bind_socket()
    listening.listen(64)  # whoever reads the port may connect
    port = listening.getsockname()[1]
    fast = Limits(RateLimit(1e6, 10**6), RateLimit(1e6, 10**6))
    config.app = make_app(desk, Access(store, TOKEN), {f"127.0.0.1:{port}"}, "ilf_review", fast)
    pipe.send(port)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


class Serving:
    """A server in a process of its own, forked: it starts at once."""

    def __init__(self, folder, count):
        fork = multiprocessing.get_context("fork")
        mine, theirs = fork.Pipe()
        self.process = fork.Process(target=_serve, args=(folder, count, theirs), daemon=True)
        self.process.start()
        self.address = f"127.0.0.1:{mine.recv()}"

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


class Reviewer:
    """A scripted one: types feedback in a few saves, and submits.

    By http.client, the leanest: twenty of them share a core with the server that they measure.
    """

    def __init__(self, address, name):
        self.http = http.client.HTTPConnection(address, timeout=60)
        self.headers = {}
        headers, _ = self.ask("GET", f"/enter?token={TOKEN}&reviewer={name.replace(' ', '+')}")
        self.headers["cookie"] = headers["set-cookie"].split(";")[0]
        _, text = self.ask("GET", "/queue")
        self.headers |= {"x-csrf-token": text.split('name="csrf" content="')[1][:64],
                         "content-type": "application/json"}
        self.acknowledged, self.sent, self.submitted, self.seconds = {}, {}, set(), []

    def ask(self, method, path, body=None):
        self.http.request(method, path, body, self.headers)
        answer = self.http.getresponse()
        text = answer.read().decode()
        assert answer.status in (200, 303), text
        return answer.headers, text

    def next(self):
        """The next item and its revision; None where all is done."""
        headers, _ = self.ask("GET", "/next")
        where = headers["location"]
        if not where.startswith("/items/"):
            return None
        _, page = self.ask("GET", where)
        state = json.loads(page.split('id="state">')[1].split("</script>")[0])
        return state["item"], state["revision"], state["entry"].get("feedback", "")

    def send(self, item, revision, text, action=""):
        self.sent[item] = text
        body = {"entry": {"feedback": text}, "base": revision, "token": f"{item} {revision}", "seconds": 1}
        start = time.monotonic()
        _, answer = self.ask("POST", f"/items/{item}/{'act' if action else 'save'}",
                             json.dumps({**body, "action": action} if action else body))
        self.seconds.append(time.monotonic() - start)
        self.acknowledged[item] = text
        if action == "submit":
            self.submitted.add(item)
        return json.loads(answer)["revision"]

    def review_all(self, saves=3):
        found = self.next()
        while found is not None:
            item, revision, text = found
            for n in range(saves):
                text += f" word {n} on item {item};"
                revision = self.send(item, revision, text)
            self.send(item, revision, text, "submit")
            found = self.next()


def test_killed_at_any_moment_loses_nothing_acknowledged(pytestconfig, tmp_path):
    for seed in range(pytestconfig.getoption("review_kills")):
        folder = tmp_path / str(seed)
        folder.mkdir()
        serving = Serving(folder, 400)
        reviewer = Reviewer(serving.address, "ann")
        killer = threading.Timer(random.Random(seed).uniform(0.02, 1.5), serving.kill)
        killer.start()
        with pytest.raises((OSError, http.client.HTTPException)):
            reviewer.review_all()
        killer.join()
        serving.process.join()
        database = sqlite3.connect(folder / "review.sqlite")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("pragma foreign_key_check").fetchall() == []
        database.close()
        store = Store(folder / "review.sqlite", Form())
        found = {review.item: review for review in store.reviews()}
        for item, text in reviewer.acknowledged.items():
            assert found[item].entry.feedback in (text, reviewer.sent[item]), (seed, item)
        assert all(found[item].status == "submitted" for item in reviewer.submitted)
        path = folder / "reviews.jsonl"
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
        assert {f"d{item - 1}" for item in reviewer.submitted} <= {row["id"] for row in rows}
        again = Desk(store, [Round("r", folder, [], [], path)])  # what a kill left out is put in
        again.close()
        submitted = {f"d{item - 1}" for item, review in found.items() if review.status == "submitted"}
        assert submitted == {json.loads(line)["id"] for line in path.read_text().splitlines()} if submitted else True
        store.close()


def test_many_reviewers_at_once(pytestconfig, tmp_path):
    count, people = pytestconfig.getoption("review_items"), 20
    serving = Serving(tmp_path, count)
    reviewers = [Reviewer(serving.address, f"reviewer {n}") for n in range(people)]
    problems = []

    def work(reviewer):
        try:
            reviewer.review_all()
        except Exception as e:
            problems.append(repr(e))
            raise

    threads = [threading.Thread(target=work, args=(reviewer,)) for reviewer in reviewers]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - start
    serving.kill()
    assert not problems
    done = [item for reviewer in reviewers for item in reviewer.submitted]
    assert sorted(done) == list(range(1, count + 1))  # none lost, none twice
    store = Store(tmp_path / "review.sqlite", Form())
    assert [(r.status, r.revision) for r in store.reviews()] == [("submitted", 4)] * count
    store.close()
    rows = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(f"d{i}" for i in range(count))
    seconds = [s for reviewer in reviewers for s in reviewer.seconds]
    cuts = statistics.quantiles(seconds, n=100)
    print(f"\n{count} items by {people} reviewers in {took:.0f} s: {len(seconds)} saves, median "
          f"{cuts[49] * 1e3:.0f} ms, 95 % {cuts[94] * 1e3:.0f} ms, longest {max(seconds) * 1e3:.0f} ms")
