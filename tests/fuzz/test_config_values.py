"""Whatever a configuration is given for a key is refused in a sentence, or kept: it is the same after a round trip.

The round trip is that of a work folder: `to_dict`, written as JSON, read again.
"""

import json
import math

import ml_collections
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits import Outcomes, counted

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import config_keys
from ilf_jax.config_sections import Config
from ilf_jax.errors import InputError

TABLE = config_keys.table(Config)
EDGES = (0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, 10**400, -(10**400), 0.0, -0.0, 0.5,
         5e-324, 1e308, math.inf, -math.inf, math.nan, "", " ", "1", "nan", "None", "\0", "\ud800", "\U0001f600", "é",
         "init:tiny", "jsonl:\n", "file:a:b", "train:257", True, False, None, (), [], {}, b"", object, 1j, ("x",),
         [["a", "b", "c"]], [None], [math.nan], [10**400], {"a": 1}, {1: 2}, {"a": {"finetune.beta": math.nan}})

anything = st.recursive(
    st.one_of(st.sampled_from(EDGES), st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4),
              st.text(st.characters(exclude_categories=()), max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner),
                            st.dictionaries(st.one_of(st.text(max_size=8), st.integers()), inner, max_size=3)),
    max_leaves=6)


def near(name):
    """Values like the ones that a key takes."""
    entry = TABLE[name]
    options = [st.just(entry.default)]
    if entry.choices is not None:
        options.append(st.sampled_from(entry.choices))
    if entry.kind is int:
        options.append(st.integers(0, 300))
    if entry.kind is float:
        options.append(st.floats(0, 2))
    if entry.kind is str and entry.registry is None:
        options.append(st.text(max_size=8))
    return st.one_of(*options)


def outcome(tree):
    """'refused' or 'kept', counted. Raises whatever is neither."""
    try:
        config = config_lib.read(tree)
        tree = config_lib.to_dict(config)  # reads a user's file, if one is named
    except InputError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 3000
        OUTCOMES["InputError"] += 1
        return "refused"
    written = json.dumps(tree, allow_nan=False)
    written.encode()
    again = config_lib.read(json.loads(written))
    assert again == config and config_lib.to_dict(again) == config_lib.to_dict(config)
    OUTCOMES["equal"] += 1
    return "kept"


OUTCOMES = Outcomes()
counts = counted(**{"configuration values": OUTCOMES})
names = st.sampled_from(sorted(TABLE))


@given(names.flatmap(lambda name: st.tuples(st.just(name), st.one_of(anything, near(name)))))
def test_a_value_of_any_kind(pair):
    outcome(dict([pair]))


@given(st.dictionaries(names, st.none(), min_size=1, max_size=6).flatmap(
    lambda keys: st.fixed_dictionaries({name: near(name) for name in keys})))
def test_several_values_that_may_be_right(tree):
    outcome(tree)


@given(st.one_of(anything, st.dictionaries(st.text(max_size=8), st.dictionaries(names, anything, max_size=2))))
def test_baselines_of_any_kind(value):
    outcome({"baselines": value})


@given(st.text(st.characters(exclude_categories=()), max_size=20), anything)
def test_a_key_of_any_kind(name, value):
    assert name in TABLE or name in config_lib.key_names() or outcome({name: value}) == "refused" or name == (
        "source_hashes")


@given(anything)
@example(5)
@example([("seed", 1)])
def test_a_configuration_of_any_kind(value):
    outcome(value)


@pytest.mark.parametrize("value", EDGES, ids=lambda v: repr(v)[:12] if not isinstance(v, int) else f"{type(v)}")
def test_every_key_with_every_edge(value):
    for name in TABLE:
        outcome({name: value})


@pytest.mark.fast
@pytest.mark.parametrize(("changes", "message"), [
    ({"finetune.learning_rate": math.inf}, "config.finetune.learning_rate: inf is not a finite number"),
    ({"finetune.beta": 10**400}, "config.finetune.beta: a whole number of more than 40 digits is too large for"),
    ({"finetune.epochs": 10**5000}, "config.finetune.epochs: a whole number of more than 40 digits is out of range"),
    ({"draft.batch_size": 2**31}, "config.draft.batch_size: 2147483648 is out of range; allowed: at least 1 and"),
    ({"seed": [10**5000]}, "config.seed: expected int, got list (too large to be shown)"),
    ({"data.source": "jsonl:a\0b"}, "config.data.source: 'jsonl:a\\x00b' has a NUL character"),
    ({"template.policy": "\ud800"}, "config.template.policy: '\\ud800' has half a surrogate pair"),
    ({"template.judge": ((b"x", "y", "z"),)}, "config.template.judge[0][0]: expected text, got bytes b'x'"),
    ({"data.eval_size": "8"}, "config.data.eval_size: expected int, got str '8'"),
    ({"data.eval_size": True}, "config.data.eval_size: expected int, got bool True"),
    ({"see\nd": 1}, "config.see\\nd: there is no such key"),
    ({"baselines": {"\n": {"attention": 2**31}}}, "config.baselines.'\\n'.attention: 2147483648 given; allowed are"),
])
def test_what_is_said(changes, message):
    with pytest.raises(InputError) as error:
        config_lib.read(changes)
    assert str(error.value).startswith(message)


@pytest.mark.fast
def test_a_list_in_a_list_comes_back_as_it_was():
    judge = [["{refinement}?", "Yes", "No"]]
    config = config_lib.read({"template.judge": judge})
    assert config.template.judge == (("{refinement}?", "Yes", "No"),)
    assert outcome({"template.judge": judge}) == "kept"


@pytest.mark.fast
@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_deep_values_are_refused(make):
    deep = "x"
    for _ in range(20_000):
        deep = make(deep)
    for name in ("template.judge", "baselines", "seed", "data.skip_empty", "data.source", "finetune"):
        assert outcome({name: deep}) == "refused"


@pytest.mark.fast
def test_what_is_no_mapping_is_refused(tmp_path):
    for value in (5, [("seed", 1)], "configs/quickstart.py", None):
        with pytest.raises(InputError, match="is a mapping of keys to values"):
            ilf_jax.run(value, tmp_path / "run")
    assert config_lib.read(ml_collections.ConfigDict({"seed": 3})).seed == 3
