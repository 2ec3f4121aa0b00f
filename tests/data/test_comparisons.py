"""Comparison records: any field names, and every fault with its line."""

import dataclasses
import json

import pytest

from ilf_jax import config_sections
from ilf_jax.data import builtin, comparisons
from ilf_jax.errors import InputError
from ilf_jax.tasks import word_removal

pytestmark = pytest.mark.fast

ROW = {"post": "a text", "info": {"a": "one", "b": "two"}, "choice": "Summary A"}
FIELDS = config_sections.ComparisonFields(document="post", first="info.a", second="info.b", preferred="choice")


def load(tmp_path, rows, **changes):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": f"jsonl:{path}", "fields": FIELDS, "sides": ("Summary A", "Summary B"), "eval_size": 1}
    return comparisons.load_comparisons(config_sections.Reward(**{**settings, **changes}))


def rows(count):
    return [{**ROW, "post": f"text {i}", "choice": f"Summary {'AB'[i % 2]}"} for i in range(count)]


def test_fields_and_splits(tmp_path):
    found = load(tmp_path, rows(5), eval_size=2)
    assert [c.document for c in found.train] == ["text 0", "text 1", "text 2"]
    assert [c.document for c in found.held_out] == ["text 3", "text 4"]
    assert found.train[0].in_order == ("one", "two") and found.train[1].in_order == ("two", "one")
    assert [c.id for c in found.train] == ["row-000001", "row-000002", "row-000003"]
    assert len(load(tmp_path, rows(5), train_size=2).train) == 2


@pytest.mark.parametrize(("change", "message"), [
    ({"info": {"a": "same", "b": " same"}}, r"pairs\.jsonl:3: both texts are equal"),
    ({"choice": "C"}, r":3: preferred is 'C'; allowed are 'Summary A' .* 'Summary B'"),
    ({"info": {"a": "", "b": "x"}}, r":3: the first text is empty"),
    ({"info": {"a": "x"}}, r":3: the row lacks 'info\.b', read as second \(config\.reward\.fields\.second\)"),
])
def test_bad_rows(tmp_path, change, message):
    given = rows(4)
    given[2] |= change
    with pytest.raises(InputError, match=message):
        load(tmp_path, given)
    assert len(load(tmp_path, given, on_error="skip").train) == 2


def test_other_faults(tmp_path):
    with pytest.raises(InputError, match=r"config\.reward\.train_size=9"):
        load(tmp_path, rows(5), train_size=9)
    with pytest.raises(InputError, match=r"config\.reward\.sides"):
        load(tmp_path, rows(5), sides=("A", "A"))
    with pytest.raises(InputError, match=r"config\.reward\.source: no file"):
        load(tmp_path, rows(5), source="jsonl:nowhere.jsonl")
    with pytest.raises(InputError, match="no comparisons are left"):
        load(tmp_path, [])
    with pytest.raises(InputError, match="the row lacks 'first'"):
        load(tmp_path, [], source="builtin:word_removal", fields=config_sections.ComparisonFields())


def test_builtin_comparisons_prefer_the_kinder_text():
    found = builtin.generate("word_removal_comparisons:200", "train")
    assert len({c.id for c in found}) == 200 and {c.preferred for c in found} == {"first", "second"}
    task = word_removal.WordRemoval()
    for c in found:
        better, worse = (task.measure(c.example, text) for text in c.in_order)
        assert better["insults_per_text"] < worse["insults_per_text"] and better["well_formed"] == 1
    assert found == builtin.generate("word_removal_comparisons:200", "train")
    assert not {c.document for c in found} & {c.document for c in builtin.generate("word_removal_comparisons", "test")}


def test_more_documents_than_names_repeat_the_names():
    names = len(builtin.people()["train"])
    found = builtin.generate(f"word_removal:{names + 3}", "train")
    assert len({e.id for e in found}) == names + 3 and found[names].document == found[0].document
    assert [dataclasses.replace(e, reference="") for e in builtin.generate("word_removal_references:5", "train")] == (
        found[:5])


def test_controlled_examples_are_right_by_the_oracle():
    found = builtin.generate("word_removal_controlled:2", "test")
    assert len(found) == 2 * (1 + 2 + 8 * 3)
    assert {e.group for e in found} == {f"{n:02d} insults" for n in range(1, 11)}
    for e in found:
        _, insults, _, named, _ = e.id.split("-")
        assert e.group.startswith(insults)
        assert len(word_removal.named_words(e.document.splitlines()[0])) == int(named)
        kept = word_removal.parse(e.reference)[1]
        assert len(kept) == int(insults) + 1 - int(named)
