"""What is known of a bucket without asking."""

from ilf_jax.runtime import bucket_index
from ilf_jax.runtime.bucket_index import Index, Known


def test_folders_are_there_while_something_is_in_them():
    index = Index()
    index.add("a/b/c", Known())
    index.add("a/b", Known())
    index.add("a/d", Known())
    assert index.names("a") == ["b", "d"] and index.names("") == ["a"] and index.names("a/b") == ["c"]
    assert index.is_folder("a/b") and not index.is_folder("a/d") and index.has("a/d") and not index.has("a/e")
    assert index.under("a") == ["a/b", "a/b/c", "a/d"] and index.under("a/d") == ["a/d"] and index.under("x") == []
    for key in ("a/b/c", "a/b", "a/b", "a/d"):
        index.remove(key)
    assert not index.has("a") and index.names("") == []


def test_a_listing_replaces_what_was_known():
    index = Index()
    index.add("run/old", Known(), b"1")
    index.add("other", Known())
    assert not index.knows_all("run/x")
    index.note_all("run", {"run/a/new": Known("12", 3)})
    assert index.names("run") == ["a"] and index.has("other") and index.content("run/old") is None
    assert index.knows_all("run/x") and index.knows_all("run") and not index.knows_all("running")
    assert index.of("run/a/new") == ("12", 3) and index.of("run/none") == (None, None)


def test_a_digest_stays_known_and_contents_are_bounded(monkeypatch):
    monkeypatch.setattr(bucket_index, "_MAX_BYTES", 10)
    monkeypatch.setattr(bucket_index, "_MAX_OBJECT", 6)
    index = Index()
    index.add("a", Known("12", 4), b"aaaa")
    index.add("a", Known(size=4))
    assert index.of("a").digest == "12" and index.content("a") == b"aaaa"
    index.add("b", Known(), b"bbbb")
    assert index.content("a") == b"aaaa"  # used last
    index.add("c", Known(), b"cccc")
    assert index.content("b") is None and index.content("a") == b"aaaa" and index.content("c") == b"cccc"
    index.add("c", Known(), b"1234567")
    assert index.content("c") is None and index.has("c")
