"""JSONL of every kind: each row is read as it stands, or refused in one line that says where it is."""

import json
import math
import pathlib

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from limits import Outcomes, counted

from ilf_jax.data import loading
from ilf_jax.errors import InputError

CASES = sorted(pathlib.Path(__file__).parents[1].glob("cases/*/*.jsonl"))
OUTCOMES = {"JSONL": Outcomes()}
counts = counted(**OUTCOMES)
FIELDS = {"document": "a.0.b", "reference": "c.-1"}

texts = st.text(st.characters(exclude_categories=()), max_size=12)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from(
    [10**400, -(10**400), 1e308, math.nan, math.inf, -math.inf, -0.0, 2**63]))
values = st.recursive(
    st.one_of(texts, numbers, st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)), max_leaves=6)
names = st.one_of(st.sampled_from([*loading.FIELDS, "a", "c"]), texts)
rows = st.dictionaries(names, values, max_size=6)


@pytest.fixture(scope="module")
def outcomes():
    return OUTCOMES["JSONL"]


def is_plain(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read(path, outcomes, fields=None, **more):
    """The examples, or None if the file was refused."""
    result = None
    with outcomes.one():
        result = loading.load_examples(f"jsonl:{path}", fields or {}, **more)
    for e in result.examples if result else ():
        assert e.document.strip() and e.id.strip()
        assert all(is_plain(getattr(e, name)) for name in loading.FIELDS)
        assert e.reference == e.reference.strip() and "nan" not in (e.reference, e.draft, e.feedback)
    return result


@given(row=rows, join=st.sampled_from([None, "", " ", "\n"]), fields=st.sampled_from([{}, FIELDS]),
       where=st.sampled_from([(), ("a=1",), ("draft!=",), ("a.0.b=x", "c.-1!=y")]))
@example(row={"document": "a", "\n\x1b[2J" * 500: 1}, join=None, fields={"document": "x"}, where=())
@example(row={"document": "a", "id": "x" * 5000}, join=None, fields={}, where=())
def test_values_of_every_type(row, join, fields, where, tmp_path, outcomes):
    path = tmp_path / "rows.jsonl"
    try:
        path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "document": "plain"}) + "\n")
    except ValueError:
        assume(False)  # JSON has no such text
    stopped = read(path, outcomes, fields, join=join, where=where)
    skipped = read(path, outcomes, fields, join=join, where=where, on_error="skip")
    assert stopped is None or stopped == skipped


@given(value=st.one_of(numbers, texts, st.none(), st.booleans()))
def test_a_value_is_read_as_it_stands(value, tmp_path, outcomes):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "a", "title": value}))
    result = read(path, outcomes)
    if isinstance(value, bool) or (isinstance(value, str) and not is_plain(json.loads(json.dumps(value)))):
        assert result is None
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        assert result.examples[0].title == ""
    elif result is not None:  # Python's own limit on the digits of a whole number may refuse it
        assert result.examples[0].title == str(json.loads(json.dumps(value)))


@given(data=st.data(), source=st.sampled_from(CASES))
def test_spoiled_bytes(data, source, tmp_path, outcomes):
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        size = data.draw(st.integers(0, 3))
        content[at : at + size] = data.draw(st.binary(max_size=3))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    read(path, outcomes, on_error=data.draw(st.sampled_from(["stop", "skip"])))


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_deep_nesting_is_refused(nested, tmp_path, outcomes):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"document": "a"}}\n{{"document": {nested}}}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: the line is not valid JSON"):
        loading.load_examples(f"jsonl:{path}", {})
    assert len(read(path, outcomes, on_error="skip").examples) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "shift-jis"])
def test_other_encodings_are_refused_with_the_remedy(encoding, tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "日本" if encoding == "shift-jis" else "café"
    path.write_bytes(json.dumps({"document": text}, ensure_ascii=False).encode(encoding))
    with pytest.raises(InputError, match=r"rows.jsonl:1: .*UTF-.*save the file as UTF-8"):
        loading.load_examples(f"jsonl:{path}", {})
