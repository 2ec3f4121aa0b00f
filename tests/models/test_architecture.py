"""No ModelConfig exists that no model could have."""

import dataclasses
import json

import pytest

from ilf_jax.models.architecture import SHAPES, ModelConfig, RopeScaling, from_facts, to_facts

pytestmark = pytest.mark.fast
TINY = SHAPES["tiny"]


@pytest.mark.parametrize(("field", "value", "words"), [
    ("num_layers", 10**6, "num_layers = 1000000 is out of range"), ("num_layers", 0, "out of range"),
    ("num_layers", "2", "num_layers = '2' is of type str, not int"), ("num_layers", 2.0, "is of type float"),
    ("num_layers", True, "num_layers = True is not a number"), ("vocab_size", -1, "vocab_size = -1 is out of range"),
    ("hidden_size", 2**40, "out of range"), ("hidden_size", None, "is of type NoneType"),
    ("norm_eps", float("nan"), "norm_eps = nan is out of range"), ("norm_eps", 0.0, "out of range"),
    ("norm_eps", -1e-5, "out of range"), ("rope_theta", float("inf"), "out of range"),
    ("rope_theta", "10000", "is of type str, not float"), ("logit_softcap", -1.0, "out of range"),
    ("query_scale", 0.0, "out of range"), ("sliding_window", 0, "out of range"),
    ("tied_embeddings", 1, "is of type int, not bool"), ("tied_embeddings", "false", "is of type str, not bool"),
    ("activation", "tanh", "activation = 'tanh' is not one of silu"), ("norm", "batch", "is not one of rms, layer"),
    ("position", "alibi", "is not one of rope, learned"), ("rope_scaling", {"factor": 2.0}, "is of type dict"),
    ("num_kv_heads", 3, "num_heads 1 is not a multiple of num_kv_heads 3"), ("head_dim", 31, "an even head_dim"),
])
def test_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **{field: value})


def test_relations():
    with pytest.raises(ValueError, match="hidden_size 32 is not a multiple of num_heads 3"):
        dataclasses.replace(TINY, position="learned", num_heads=3, num_kv_heads=3, head_dim=10)
    with pytest.raises(ValueError, match=r"low_freq_factor 4\.0 is not below high_freq_factor 4\.0"):
        RopeScaling("llama3", 8.0, 4.0, 4.0)
    with pytest.raises(ValueError, match=r"factor = 0\.0 is out of range"):
        RopeScaling("linear", 0.0)


@pytest.mark.parametrize("name", SHAPES)
def test_facts_round_trip(name):
    assert from_facts(json.loads(json.dumps(to_facts(SHAPES[name])))) == SHAPES[name]


@pytest.mark.parametrize("change", [
    {"num_layers": "2"}, {"rope_scaling": 3}, {"rope_scaling": {}}, {"rope_scaling": {"kind": "linear"}}, {"extra": 1},
])
def test_facts_of_no_model(change):
    with pytest.raises((TypeError, ValueError)):
        from_facts({**to_facts(TINY), **change})


def test_whole_numbers_are_numbers():
    assert isinstance(dataclasses.replace(TINY, rope_theta=10_000), ModelConfig)
