"""Cache = no cache: prefix and own tokens in parts give the hidden states of one full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from jax.sharding import Mesh
from tokenizers import decoders
from tokenizers import models as tokenizer_models

from ilf_jax import config_sections
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import padding, transformer
from ilf_jax.models.architecture import RopeScaling, small_shape
from ilf_jax.models.cache import empty_cache
from ilf_jax.models.compute import FLOAT32, ComputeOptions, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.tasks.prompts import Prompt, Question
from ilf_jax.tokenizers.tokenizer import Tokenizer

BASE = dataclasses.replace(small_shape(32, 2, 64), num_heads=4, num_kv_heads=2, head_dim=8, max_positions=64)
MODELS = {
    "gqa": BASE,
    "sliding": dataclasses.replace(BASE, sliding_window=3),
    "sliding_mixed": dataclasses.replace(
        BASE, sliding_window=4, sliding_pattern=2, rope_local_theta=100.0, post_norms=True, norm_offset=1.0
    ),
    "learned": dataclasses.replace(
        BASE, num_kv_heads=4, position="learned", position_offset=2, norm="layer", activation="gelu_tanh",
        gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True,
    ),
    "qk_norm": dataclasses.replace(BASE, qk_norm=True, tied_embeddings=False),
    # What OLMo 2 does; and all that Gemma 2, Granite, SmolLM3 and Phi-4-mini do otherwise than Llama, in one model.
    "outputs_normed": dataclasses.replace(BASE, pre_norms=False, post_norms=True, qk_norm_whole=True),
    "capped_unrotated": dataclasses.replace(
        BASE, num_layers=3, attention_softcap=1.0, residual_scale=0.5, query_scale=0.5, logit_scale=0.5,
        sliding_window=4, sliding_layers=(0, 2), unrotated_layers=(1,), rotary_dim=6,
        rope_scaling=RopeScaling("yarn", 4.0, original_max_positions=16, attention_factor=1.2),
    ),
}
LENGTHS = np.array([7, 12, 1], np.int32)
B, C, L, P = 3, 2, 6, 12

forward = jax.jit(transformer.forward, static_argnums=0)
prefill = jax.jit(transformer.prefill, static_argnums=0)
extend = jax.jit(transformer.extend, static_argnums=0)
decode_step = jax.jit(transformer.decode_step, static_argnums=0)


@functools.cache
def random_params(config):
    """Random params in which norms and biases are away from 1 and 0 too."""
    params = transformer.init_params(config, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@functools.cache
def problem(name):
    """Prompts of different lengths (what stands behind them is noise), suffixes, and the reference hidden states."""
    config, rng = MODELS[name], np.random.default_rng(0)
    prompts = rng.integers(0, 64, (B, P)).astype(np.int32)
    suffixes = rng.integers(0, 64, (B, C, L)).astype(np.int32)
    rows = np.zeros((B * C, P + L), np.int32)
    for b in range(B):
        for c in range(C):
            rows[b * C + c, : LENGTHS[b] + L] = [*prompts[b, : LENGTHS[b]], *suffixes[b, c]]
    hidden = np.asarray(forward(config, random_params(config), rows)).reshape(B, C, P + L, -1)
    last = np.stack([hidden[b, 0, LENGTHS[b] - 1] for b in range(B)])
    behind = np.stack([[hidden[b, c, LENGTHS[b] : LENGTHS[b] + L] for c in range(C)] for b in range(B)])
    return config, random_params(config), prompts, suffixes, last, behind


@pytest.mark.parametrize("name", MODELS)
def test_prefill_and_extend_equal_the_full_forward_pass(name):
    config, params, prompts, suffixes, last, behind = problem(name)
    assert np.abs(behind[:, 0] - behind[:, 1]).max() > 0.1  # the candidates do differ
    last_BxD, prefix = prefill(config, params, prompts, LENGTHS)
    np.testing.assert_allclose(last_BxD, last, atol=1e-5)
    hidden = extend(config, params, prefix, suffixes)
    np.testing.assert_allclose(hidden, behind, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_wanted_tokens_come_out_as_if_all_were_wanted(name):
    config, params, prompts, suffixes, _, behind = problem(name)
    prefix, pick = prefill(config, params, prompts, LENGTHS)[1], np.random.default_rng(1)
    wanted_BxCxW = pick.integers(0, L, (B, C, 4))
    hidden = extend(config, params, prefix, suffixes, None, None, wanted_BxCxW)
    np.testing.assert_allclose(hidden, np.take_along_axis(behind, wanted_BxCxW[..., None], axis=2), atol=1e-5)
    wanted_BxW, whole = pick.integers(0, P, (B, 5)), np.asarray(forward(config, params, prompts))
    hidden = forward(config, params, prompts, None, None, wanted_BxW)
    np.testing.assert_allclose(hidden, np.take_along_axis(whole, wanted_BxW[..., None], axis=1), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_token_by_token_equals_the_full_forward_pass(name):
    config, params, prompts, suffixes, _, behind = problem(name)
    prefix = prefill(config, params, prompts, LENGTHS)[1]
    cache = empty_cache(prefix, C, L + 3)
    for i in range(L):
        hidden, cache = decode_step(config, params, prefix, cache, suffixes[:, :, i])
        np.testing.assert_allclose(hidden, behind[:, :, i], atol=1e-5)
    assert int(cache.index) == L
    assert cache.ages_B.tolist() == [L] * B


@pytest.mark.parametrize("name", MODELS)
def test_a_document_put_in_later_equals_the_full_forward_pass(name):
    """Its tokens go around the end of the ring, and lie among those of rows that began before."""
    config, params, prompts, suffixes, _, behind = problem(name)
    prefix = prefill(config, params, prompts, LENGTHS)[1]
    cache, late = empty_cache(prefix, C, L), 4
    for i in range(late + L):
        if i == late:
            cache = cache.replace(ages_B=cache.ages_B.at[1].set(0))
        at = [i % L, (i - late) % L, i % L]
        tokens = np.stack([suffixes[b, :, at[b]] for b in range(B)])
        hidden, cache = decode_step(config, params, prefix, cache, tokens)
        if i >= late:
            np.testing.assert_allclose(hidden[1], behind[1, :, i - late], atol=1e-5)
        elif i < L:
            np.testing.assert_allclose(hidden[0], behind[0, :, i], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_tree_equals_its_paths_by_themselves(name):
    """A stem of two tokens with leaves of three and one: each leaf as if nothing but the stem stood before it."""
    config, params, prompts, suffixes, _, _ = problem(name)
    prefix = prefill(config, params, prompts, LENGTHS)[1]
    shape = (B, C, L)
    offsets = np.broadcast_to(np.array([0, 1, 2, 3, 4, 2], np.int32), shape)
    leaves = np.broadcast_to(np.array([0, 0, 1, 1, 1, 2], np.int32), shape)
    found = np.asarray(extend(config, params, prefix, suffixes, offsets, leaves))
    first = np.asarray(extend(config, params, prefix, suffixes[:, :, :5]))
    second = np.asarray(extend(config, params, prefix, suffixes[:, :, [0, 1, 5]]))
    np.testing.assert_allclose(found[:, :, :5], first, atol=1e-5)
    np.testing.assert_allclose(found[:, :, 5], second[:, :, 2], atol=1e-5)
    assert np.abs(first[:, :, 2] - found[:, :, 5]).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_a_later_token_changes_no_earlier_hidden_state(name):
    config, params = MODELS[name], random_params(MODELS[name])
    rows = np.random.default_rng(1).integers(0, 64, (B * C, P + L)).astype(np.int32)
    rows[1] = rows[0]
    rows[1, 9] = (rows[0, 9] + 1) % 64
    hidden = np.asarray(forward(config, params, rows))
    difference = np.abs(hidden[0] - hidden[1]).max(axis=-1)
    assert difference[:9].max() == 0
    assert difference[9] > 1e-2
    assert difference[10] > 1e-4


def test_a_sliding_window_reaches_no_further_than_it_says():
    config, params = MODELS["sliding"], random_params(MODELS["sliding"])
    rows = np.random.default_rng(1).integers(0, 64, (B * C, P + L)).astype(np.int32)
    rows[1] = rows[0]
    rows[1, 3] = (rows[0, 3] + 1) % 64
    hidden = np.asarray(forward(config, params, rows))
    difference = np.abs(hidden[0] - hidden[1]).max(axis=-1)
    reach = config.num_layers * (config.sliding_window - 1)
    assert np.all(difference[3 : 3 + reach + 1] > 1e-6)
    assert difference[3 + reach + 1 :].max() == 0


@pytest.mark.parametrize("name", ["gqa", "learned"])
def test_padding_beyond_the_context_does_no_harm(name):
    """Rows are padded to a bucket, which may be longer than the model's table of positions."""
    config = dataclasses.replace(MODELS[name], max_positions=P + 2)
    params = random_params(config)
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 64, (1, P + 2)).astype(np.int32)
    right = np.asarray(forward(config, params, tokens))
    long = np.concatenate([tokens, np.zeros((1, 10), np.int32)], axis=1)
    np.testing.assert_allclose(forward(config, params, long)[:, : P + 2], right, atol=1e-5)
    last, prefix = prefill(config, params, long, np.array([P], np.int32))
    np.testing.assert_allclose(last, right[:, P - 1], atol=1e-5)
    suffix = np.zeros((1, 1, 16), np.int32)
    suffix[0, 0, :2] = tokens[0, P:]
    hidden = extend(config, params, prefix, suffix)
    np.testing.assert_allclose(hidden[0, 0, :2], right[0, P:], atol=1e-5)


@pytest.mark.parametrize("embeddings", [
    {"embedding_scale": 32**0.5},
    {"position": "learned", "norm": "layer"},
], ids=["scaled", "learned positions"])
def test_embeddings_are_rounded_alike_where_params_are(embeddings):
    """In bfloat16 the sampler's params are rounded and the trainer's are not: what enters the layers is the same."""
    config = dataclasses.replace(BASE, **embeddings)
    params = random_params(config)
    for name, layer in params.items():  # layers that add nothing, so that what enters them is what comes out
        if name.startswith("layers_"):
            layer["attention"]["o"] = jax.tree.map(jnp.zeros_like, layer["attention"]["o"])
            layer["mlp"]["down"] = jax.tree.map(jnp.zeros_like, layer["mlp"]["down"])
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (4, 16))
    run = jax.jit(transformer.forward, static_argnames=("config", "compute"))
    compute = ComputeOptions(jnp.bfloat16)
    trained, sampled = (run(config, p, tokens, compute=compute) for p in (params, in_precision(params, jnp.bfloat16)))
    assert trained.dtype == jnp.bfloat16 and np.std(trained.astype(np.float32)) > 0.5
    np.testing.assert_array_equal(trained, sampled)


def test_an_empty_prefix_is_no_prefix():
    config, params, _, suffixes, _, _ = problem("gqa")
    _, prefix = prefill(config, params, np.zeros((B, P), np.int32), np.zeros(B, np.int32))
    hidden = extend(config, params, prefix, suffixes)
    right = forward(config, params, suffixes.reshape(B * C, L)).reshape(B, C, L, -1)
    np.testing.assert_allclose(hidden, right, atol=1e-5)


# Questions through the judge: the shared prefix is found among tokens, not characters.


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A model whose vocabulary is single characters and the pair 'ab'."""
    characters = "abcdefghijklmnopqrstuvwxyzYN ?:."
    vocabulary = {token: i for i, token in enumerate(["<end>", *characters, "ab"])}
    tokenizer = tokenizers.Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<end>"])
    folder = tmp_path_factory.mktemp("characters")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    placement = Placement(Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES), BASE)
    return LanguageModel(
        name="judge", settings=config_sections.Model(), architecture=BASE, params=random_params(BASE),
        tokenizer=Tokenizer.load(f"hf:{folder}"), placement=placement, compute=FLOAT32,
    )


def asked_separately(lm, text, answers):
    """p(first) / (p(first) + p(second)) after the whole prompt, tokenised in one go."""
    ids = lm.tokenizer.encode(text + " ")
    row = np.zeros((1, 64), np.int32)
    row[0, : len(ids)] = ids
    logits = transformer.unembed(lm.architecture, lm.params, forward(lm.architecture, lm.params, row)[0, len(ids) - 1])
    yes, no = (lm.tokenizer.encode(answer)[0] for answer in answers)
    p = jax.nn.softmax(logits.astype(jnp.float32))
    return float(p[yes] / (p[yes] + p[no]))


@pytest.mark.parametrize(
    ("before", "texts"),
    [
        ("is it better: a", ["b or", "c", "bb b", "a"]),  # 'ab' is one token where the text goes on with b
        ("is it better: ", ["aa", "aab", "aabc", "aab"]),  # one text is a beginning of another, two are equal
        ("", ["one", "two", "abc", "x"]),  # nothing shared at all
    ],
)
def test_shared_prefix_equals_separate_prompts(lm, before, texts):
    prompts = [f"{before}{text}? answer:" for text in texts]
    asked = answer_scoring.ask(lm, "id", [[Question(Prompt(p, "", ""), ("Y", "N"))] for p in prompts])
    group = asked.together
    whole = [lm.tokenizer.encode(p + " ") for p in prompts]
    assert [[*group.prefix, *branch.tokens] for branch in group.branches] == whole
    assert all(len(branch.tokens) for branch in group.branches)
    # A longer prefix would not be shared.
    assert len({tuple(row[: len(group.prefix) + 1]) for row in whole}) > 1
    assert asked.exact is False  # the answer is a space and a letter; the space went to the prompt
    other = answer_scoring.ask(
        lm, "id2", [[Question(Prompt("some other, longer beginning than that ", "", t), ("Y", "N"))] for t in texts]
    )
    found = [scores[:, 0] for scores in answer_scoring.favourable_probabilities(lm, [asked, other], batch_size=3)]
    right = [asked_separately(lm, p, ("Y", "N")) for p in prompts]
    assert max(right) - min(right) > 1e-3
    np.testing.assert_allclose(found[0], right, atol=1e-5)
    np.testing.assert_allclose(
        found[1],
        [asked_separately(lm, f"some other, longer beginning than that {t}", ("Y", "N")) for t in texts],
        atol=1e-5,
    )


def test_common_prefix_ends_before_a_token_that_spans_the_boundary(lm):
    joint, apart = (lm.tokenizer.encode(text) for text in ("xab", "xac"))
    assert len(joint) == 2
    assert len(apart) == 3
    assert padding.common_prefix([joint, apart]) == 1
    assert padding.common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert padding.common_prefix([[1, 2, 3, 4], [1, 2]]) == 1
    assert padding.common_prefix([[5], [1, 2]]) == 0
