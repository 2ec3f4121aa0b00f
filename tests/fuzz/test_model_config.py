"""config.json and model.json with wrong types, values out of range, keys missing, bytes damaged."""

import copy
import json

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st
from limits import STRANGE, Outcomes, counted, damaged, write_as_ours

from ilf_jax.models import checkpoint_io, family_configs, transformer
from ilf_jax.models.architecture import from_facts, to_facts

SMALL = dict(
    vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6,
)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=40)
SLIDING = dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=1e3, beta_fast=4.0)
LONGROPE = dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[4.0, 5.0])
BASES = {
    "llama": SMALL | dict(model_type="llama", rope_theta=1e4, hidden_act="silu", attention_bias=False),
    "llama3": SMALL | dict(model_type="llama", rope_parameters=LLAMA3 | dict(rope_theta=500.0), head_dim=6),
    "mistral": SMALL | dict(model_type="mistral", sliding_window=8),
    "qwen2": SMALL | dict(model_type="qwen2", **SLIDING),
    "qwen3": SMALL | dict(model_type="qwen3", head_dim=4, rope_scaling=YARN, layer_types=["full_attention"] * 2),
    "gemma2": SMALL | dict(model_type="gemma2", head_dim=4, attn_logit_softcapping=2.0, sliding_window=8),
    "gemma3": {"model_type": "gemma3", "text_config": SMALL | dict(
        model_type="gemma3_text", head_dim=4, query_pre_attn_scalar=4, sliding_window=8, final_logit_softcapping=5.0,
        rope_local_base_freq=1e4, sliding_window_pattern=2, rope_scaling=dict(rope_type="linear", factor=2.0))},
    "phi3": SMALL | dict(model_type="phi3", original_max_position_embeddings=48, rope_scaling=LONGROPE),
    "olmo2": SMALL | dict(model_type="olmo2"),
    "granite": SMALL | dict(model_type="granite", embedding_multiplier=6.0, attention_multiplier=0.2,
                            residual_multiplier=0.4, logits_scaling=0.5, attention_bias=True, mlp_bias=True),
    "smollm3": SMALL | dict(model_type="smollm3", no_rope_layers=[1, 0], tie_word_embeddings=True),
    "gpt2": dict(model_type="gpt2", vocab_size=24, n_embd=16, n_head=4, n_layer=2, n_positions=32,
                 activation_function="gelu_new", layer_norm_epsilon=1e-5),
    "opt": dict(model_type="opt", vocab_size=24, hidden_size=16, ffn_dim=24, num_attention_heads=4,
                num_hidden_layers=2, max_position_embeddings=30, word_embed_proj_dim=16, do_layer_norm_before=True),
}
OUTCOMES = {"config.json": Outcomes(), "config.json, bytes": Outcomes(), "model.json": Outcomes()}
counts = counted(**OUTCOMES)



def random_params(config):
    rng = np.random.default_rng(0)
    flat = {k: rng.normal(size=v.shape).astype(np.float32)
            for k, v in traverse_util.flatten_dict(transformer.param_shapes(config)).items()}
    return traverse_util.unflatten_dict(flat)


@pytest.fixture(scope="module", params=BASES)
def model(request, tmp_path_factory):
    """(config.json, folder, params) of a tiny model of a family."""
    base, folder = BASES[request.param], tmp_path_factory.mktemp(request.param)
    config = family_configs.from_hf(base, "config.json")
    params = random_params(config)
    checkpoint_io.save_hf(config, params, folder)
    (folder / "config.json").write_text(json.dumps(base))
    return base, folder, Params(flat_of(checkpoint_io.load_params(f"hf:{folder}")))


class Params(dict):
    """By path; hypothesis does not print the values."""

    def __repr__(self):
        return f"{len(self)} params"


def flat_of(params):
    return {"/".join(k): np.asarray(v) for k, v in traverse_util.flatten_dict(params).items()}


def assert_equal(params, wanted):
    params = flat_of(params)
    assert params.keys() == wanted.keys()
    for name, value in params.items():
        assert np.array_equal(value, wanted[name]), name


def places_in(value, path=()):
    """Paths of all keys and elements, the innermost ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


def replaced(value, path, new):
    """A copy with another value at a path; without it where `new` is ...."""
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return value


EXTRA_KEYS = ("head_dim", "layer_types", "rope_scaling", "rope_parameters", "rope_theta", "tie_word_embeddings",
              "text_config", "quantization_config", "partial_rotary_factor", "sliding_window", "hidden_act")
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=4)


@given(data=st.data())
def test_a_value_is_another(model, data):
    base, folder, params = model
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([*places_in(base), *((k,) for k in EXTRA_KEYS)]))
        new = data.draw(st.sampled_from([*STRANGE, ...]) | JSON)
        if new is ... and len(path) == 1 and path[0] not in base:
            continue
        base = replaced(base, path, new)
        if new is ... or isinstance(new, (dict, list)):
            break  # other paths may lead nowhere
    (folder / "config.json").write_text(json.dumps(base))
    with OUTCOMES["config.json"].one():
        checkpoint_io.read_config(f"hf:{folder}")
        assert_equal(checkpoint_io.load_params(f"hf:{folder}"), params)


@given(data=st.data())
def test_a_config_without_weights_is_checked_by_itself(model, data, tmp_path):
    base, _, _ = model
    path = data.draw(st.sampled_from([*places_in(base)]))
    (tmp_path / "config.json").write_text(json.dumps(replaced(base, path, data.draw(st.sampled_from([*STRANGE, ...])))))
    with OUTCOMES["config.json"].one():
        config = checkpoint_io.read_config(f"hf:{tmp_path}")
        assert from_facts(to_facts(config)) == config


@given(data=st.data())
def test_bytes_are_damaged(model, data):
    base, folder, params = model
    text = json.dumps(base).encode()
    if data.draw(st.integers(0, 3)):
        changed = damaged(data, text, ("bit", "put in", "end"))
    else:
        at = data.draw(st.integers(0, len(text) - 1))
        changed = text[:at] + b"[" * 100_000 + text[at:]
    (folder / "config.json").write_bytes(changed)
    with OUTCOMES["config.json, bytes"].one():
        assert_equal(checkpoint_io.load_params(f"hf:{folder}"), params)


@given(data=st.data())
def test_model_json(model, data, tmp_path):
    base, _, _ = model
    facts = json.loads(json.dumps(to_facts(family_configs.from_hf(base, "config.json"))))
    path = data.draw(st.sampled_from([*places_in(facts)]))
    new = data.draw(st.sampled_from([*STRANGE, ...]) | JSON)
    (tmp_path / "params").mkdir(exist_ok=True)
    write_as_ours(tmp_path / "model.json", replaced(facts, path, new))
    with OUTCOMES["model.json"].one():
        config = checkpoint_io.read_config(f"orbax:{tmp_path}")
        assert from_facts(to_facts(config)) == config
