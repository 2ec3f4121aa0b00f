"""What people submit on the reviewing page of a run in a bucket reaches the bucket."""

import json

import object_stores
import pytest

from ilf_jax.review.entries import Entry, Form
from ilf_jax.review.outbox import Outbox
from ilf_jax.review.rounds import of_run
from ilf_jax.review.store import Store
from ilf_jax.runtime import bucket, files, storage


@pytest.mark.parametrize("scheme", object_stores.SCHEMES)
def test_what_is_submitted_goes_to_the_bucket(scheme, tmp_path, monkeypatch):
    with object_stores.started(scheme) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        bucket.bucket.cache_clear()
        folder = storage.path(f"{server.uri}/run")
        rows = [{"id": f"d{i}", "document": f"document {i}", "draft": f"draft {i}", "feedback": ""} for i in range(3)]
        files.write_json(folder / "config.json", {})
        (folder / "iteration_001/feedback/to_review.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        store = Store(tmp_path / "review.sqlite", Form())
        round_ = of_run(folder)
        round_.enter(store)
        outbox = Outbox(store, [round_])
        store.act(store.item(2), "ann", Entry(feedback="Why?"), "submit", base=0, token="t", seconds=1)
        outbox.note(2)
        outbox.close()
        store.close()
        bucket.bucket.cache_clear()  # what another process sees
        written = (storage.path(f"{server.uri}/run") / "iteration_001/feedback/reviews.jsonl").read_text().splitlines()
        assert [(json.loads(row)["id"], json.loads(row)["feedback"]) for row in written] == [("d1", "Why?")]
        bucket.bucket.cache_clear()
