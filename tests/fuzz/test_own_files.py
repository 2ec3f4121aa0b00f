"""A run's own files, changed or made up: what is read is what was written, or an InputError that names the file."""

import copy
import dataclasses
import json
import math
import pathlib
import re
import tempfile
import types
import typing

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from limits import Outcomes, counted, damaged, write_as_ours

from ilf_jax import records
from ilf_jax.errors import InputError
from ilf_jax.runtime import files, manifests, stage_folder
from ilf_jax.training.step_log import StepLog

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats() | TEXT | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
FINITE = JSON.filter(lambda value: not re.search("NaN|Infinity", json.dumps(value)))
MANIFEST = {
    "complete": True, "shards": 2, "count": 3, "finished": 12.5, "cost": {"seconds": 1.0}, "digests": ["a", "b"],
    "metrics": [{"iteration": 1, "stage": "draft", "metric": "m", "value": 0.5, "stderr": None, "n": 3}],
    "records_in": "../x", "steps_digest": "c",
}

OUTCOMES = {name: Outcomes() for name in ("shards", "manifests", "sealed files", "logs of steps")}
counts = counted(**OUTCOMES)


def of_kind(kind):
    """Values of a record's field."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is list:
        return st.lists(of_kind(inner[0]), min_size=2, max_size=2)
    if outer is dict:
        return st.dictionaries(TEXT, of_kind(inner[1]), max_size=2)
    if outer is types.UnionType:
        return st.one_of(*map(of_kind, inner))
    simple = {str: TEXT, bool: st.booleans(), int: st.integers(0, 1), float: NUMBER, types.NoneType: st.none()}
    return simple[kind]


@st.composite
def rows(draw):
    """(A record type, one of its records as it is written)."""
    cls = draw(st.sampled_from([*records.OF_STAGES.values(), records.Example, records.Comparison]))
    row = {name: draw(of_kind(kind)) for name, kind in typing.get_type_hints(cls).items()}
    if "preferred" in row:
        row["preferred"] = draw(st.sampled_from(["first", "second"]))
    return cls, row


def mutated(draw, value):
    """The value with one place in it replaced by any JSON, removed or added."""
    value = copy.deepcopy(value)
    inside = draw(st.integers(0, 2))
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    if keys and inside:
        key = draw(st.sampled_from(list(keys)))
        if inside == 1 and isinstance(value[key], dict | list):
            value[key] = mutated(draw, value[key])
        elif isinstance(value, dict) and draw(st.booleans()):
            del value[key]
        else:
            value[key] = draw(JSON)
    elif isinstance(value, dict):
        value[draw(TEXT)] = draw(JSON)
    else:
        value.append(draw(JSON))
    return value


def read_or_refused(what, read):
    """What it returns, or the InputError; counted."""
    try:
        result = read()
    except InputError as e:
        result = e
    OUTCOMES[what]["InputError" if isinstance(result, InputError) else "equal"] += 1
    return result


@given(rows())
def test_records_come_back_as_they_were(row):
    cls, row = row
    record = records.from_json(cls, row)
    assert records.from_json(cls, json.loads(json.dumps(records.to_json(record), allow_nan=False))) == record


@given(rows(), st.data())
def test_a_written_line_is_read_as_its_row_is(row, data):
    """Of what only a digest can find out, keys that are unknown or twice there, nothing is asked."""
    cls, row = row
    line = json.dumps(row, ensure_ascii=False).encode()
    assert records.from_written_line(cls, line) == records.from_json(cls, row)
    wrong = mutated(data.draw, row)
    known = {name: value for name, value in wrong.items() if name in row}
    try:
        got = records.from_written_line(cls, json.dumps(wrong).encode())
    except ValueError:
        with pytest.raises((TypeError, ValueError)):
            records.from_json(cls, known)
    else:
        assert got == records.from_json(cls, known)


@given(st.data())
def test_a_shard_that_was_made_up(data):
    cls, row = data.draw(rows())
    wrong = mutated(data.draw, row)
    with tempfile.TemporaryDirectory() as place:
        folder = stage_folder.StageFolder(pathlib.Path(place) / "iteration_001/draft", {})
        folder.path.mkdir(parents=True)
        folder.shard_path(0, 1).write_text(json.dumps(wrong) + "\n")
        got = read_or_refused("shards", lambda: folder.read_shard(cls, 0, 1))
    if isinstance(got, InputError):
        assert "00000-of-00001.jsonl:1: is no" in str(got)
    else:
        json.dumps(dataclasses.asdict(got[0]), allow_nan=False)
        assert {k: v for k, v in dataclasses.asdict(got[0]).items() if k in wrong} == wrong


@given(rows(), st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_no_record_is_written_with_what_is_not_finite(row, value, data):
    cls, row = row
    names = [name for name, kind in typing.get_type_hints(cls).items() if "float" in str(kind)]
    assume(names)
    name = data.draw(st.sampled_from(names))
    kind = str(typing.get_type_hints(cls)[name])
    row[name] = [[value, 0.0]] * 2 if "list[list" in kind else [0.0, value] if "list" in kind else (
        {"a": value} if "dict" in kind else value)
    with pytest.raises(ValueError, match=rf"document .*: {name}"):
        records.to_json(cls(**row))


@pytest.mark.fast
def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match=r"text is '\\ud800'"):
        records.to_json(records.Draft("a", "\ud800", "policy"))


@given(st.data())
@example(None)
def test_a_manifest_that_was_made_up(data):
    wrong = MANIFEST if data is None else mutated(data.draw, MANIFEST)
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "manifest.json"
        write_as_ours(path, wrong)
        got = read_or_refused("manifests", lambda: manifests.read(path))
    if isinstance(got, InputError):
        assert str(path) in str(got)
        assert wrong != MANIFEST
        return
    assert got == wrong
    assert isinstance(got["complete"], bool)
    assert not got["complete"] or (got["shards"] >= 0 and got["count"] >= 0)
    assert all(math.isfinite(v) for v in got.get("cost", {}).values())
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in got.get("metrics", []) if "value" in row)


@given(st.dictionaries(TEXT, FINITE, max_size=4), st.data())
def test_a_sealed_file_is_what_was_written_or_refused(content, data):
    """Any byte replaced, a piece cut out, or the end lost."""
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "run.json"
        files.write_json(path, content)
        assert files.read_sealed(path) == content
        path.write_bytes(damaged(data, path.read_bytes()))
        got = read_or_refused("sealed files", lambda: files.read_sealed(path))
    if isinstance(got, InputError):
        assert str(path) in str(got)
    else:
        assert got == content


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=3), st.data())
def test_a_file_of_lines_is_what_was_written_or_refused(lines, data):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "metrics.jsonl"
        files.write_lines(path, "old\n")
        files.write_lines(path, text)
        assert [row for _, row in files.read_json_lines(path)] == lines
        changed = damaged(data, path.read_bytes())
        assume(changed not in (b"old\n", text.encode()))
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"metrics\.jsonl: is damaged"):
            list(files.read_json_lines(path))


@given(st.data())
def test_a_log_of_steps_is_what_the_state_belongs_to_or_refused(data):
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "steps.jsonl"
        log = StepLog(path, "finetune")
        for step in range(4):
            log.add(step, {"loss": 1.0 / (step + 1), "grad_norm": 1.0})
        digest, whole = log.digest(), path.read_bytes()
        log.add(4, {"loss": 0.5, "grad_norm": 1.0})
        changed = damaged(data, path.read_bytes())
        path.write_bytes(changed)
        again = StepLog(path, "finetune")
        got = read_or_refused("logs of steps", lambda: again.rewind(4, digest))
        if isinstance(got, InputError):
            assert "steps.jsonl: is damaged" in str(got) and not changed.startswith(whole)
        else:
            assert path.read_bytes() == whole and again.digest() == digest
