"""Token choice against brute force: sorting, searchsorted, chi-square, and transformers' warpers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ilf_jax.sampling import logits as logits_lib

inverse_cdf = jax.jit(logits_lib.inverse_cdf)


@jax.jit
def filtered_probs(logits, sampling):
    """The distribution that tokens are drawn from: every token of the vocabulary asked whether it is kept."""
    weights = logits_lib.token_weights(logits, sampling)
    columns = jax.lax.map(lambda w: logits_lib.in_nucleus(weights, w, sampling.top_p), weights.T)
    kept = jax.numpy.where(columns.T, weights, 0.0)
    return kept / kept.sum(axis=-1, keepdims=True)


sample = jax.jit(logits_lib.sample)
SETTINGS = [
    (1.0, 0, 1.0), (0.7, 0, 1.0), (2.0, 1, 1.0), (1.0, 5, 1.0), (1.0, 300, 1.0), (1.0, 999, 1.0), (1.0, 0, 0.5),
    (1.0, 0, 0.95), (1.3, 0, 0.999), (1.0, 0, 1e-4), (0.5, 7, 0.8), (1.5, 40, 0.3), (1.0, 3, 0.99999),
]


def by_sorting(logits, temperature, top_k, top_p):
    """The filtered distribution of one row, float64."""
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if 0 < top_k < len(p):
        p = np.where(p >= np.sort(p)[::-1][top_k - 1], p, 0)
        p /= p.sum()
    if top_p < 1:
        down = np.sort(p)[::-1]
        needed = int(np.argmax(np.cumsum(down) >= top_p))
        p = np.where(p >= down[needed], p, 0)
        p /= p.sum()
    return p


def check(logits, settings):
    found = np.asarray(filtered_probs(logits, logits_lib.make_sampling(*settings)))
    right = np.stack([by_sorting(row, *settings) for row in logits])
    np.testing.assert_array_equal(found > 0, right > 0)
    np.testing.assert_allclose(found, right, rtol=2e-5, atol=1e-9)


@pytest.mark.versions
@pytest.mark.fast
@pytest.mark.parametrize("settings", SETTINGS)
def test_filter_equals_brute_force(settings):
    rng = np.random.default_rng(0)
    check((3 * rng.normal(size=(60, 301))).astype(np.float32), settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_filter_with_ties_equals_brute_force(settings):
    rng = np.random.default_rng(1)
    check((rng.integers(-6, 6, (40, 53)) / 2).astype(np.float32), settings)


def test_filter_at_extremes():
    rows = np.zeros((3, 8), np.float32)
    rows[1, 3] = 200.0  # everything else underflows to 0
    rows[2, 1:] = -np.inf
    for settings in ((1.0, 4, 1.0), (1.0, 0, 0.6), (1.0, 2, 0.99)):
        found = np.asarray(filtered_probs(rows, logits_lib.make_sampling(*settings)))
        np.testing.assert_allclose(found[0], np.full(8, 1 / 8), rtol=1e-6)  # ties are all kept
        np.testing.assert_array_equal(found[1], np.eye(8)[3])
        np.testing.assert_array_equal(found[2], np.eye(8)[0])


def exact_probs(rng, rows, vocabulary, zeros):
    """Probabilities that are whole multiples of 2**-20, so that float32 sums are exact."""
    out = np.zeros((rows, vocabulary))
    for row in out:
        alive = rng.permutation(vocabulary)[: max(1, round(vocabulary * (1 - zeros)))]
        parts = rng.multinomial(2**20, rng.dirichlet(np.full(len(alive), 0.3)))
        row[alive] = parts / 2**20
    return out.astype(np.float32)


@pytest.mark.parametrize("vocabulary", [1, 7, 255, 256, 257, 1000])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_inverse_cdf_equals_searchsorted(vocabulary, zeros):
    rng = np.random.default_rng(vocabulary)
    probs = exact_probs(rng, 300, vocabulary, zeros)
    ends = np.cumsum(probs.astype(np.float64), axis=1)
    uniforms = (rng.integers(0, 2**20, 300) / 2**20).astype(np.float32)
    # On, just below and just above a boundary, where an off-by-one shows.
    boundary = ends[np.arange(300), rng.integers(0, vocabulary, 300)]
    uniforms[:100] = np.clip(boundary[:100], 0, 1 - 2**-20)
    uniforms[100:200] = np.clip(boundary[100:200] - 2**-20, 0, 1 - 2**-20)
    uniforms[200:203] = 0.0
    uniforms[203:206] = 1 - 2**-23  # the largest number that jax.random.uniform gives
    found = np.asarray(inverse_cdf(probs, uniforms))
    right = [np.searchsorted(row, u, side="right") for row, u in zip(ends, uniforms.astype(np.float64), strict=True)]
    np.testing.assert_array_equal(found, right)
    assert np.all(probs[np.arange(300), found] > 0)


def test_tokens_of_probability_zero_are_never_drawn():
    """Not even where rounding leaves the goal above every sum."""
    rng = np.random.default_rng(3)
    logits = (4 * rng.normal(size=(400, 700))).astype(np.float32)
    probs = np.array(filtered_probs(logits, logits_lib.make_sampling(1.0, 0, 0.7)))
    for u in (0.0, 1e-7, 0.3, 0.5, 0.9999999, 1.0):
        found = np.asarray(inverse_cdf(probs, np.full(400, u, np.float32)))
        assert np.all(probs[np.arange(400), found] > 0), u
    first = np.argmax(probs > 0, axis=1)
    last = 699 - np.argmax(probs[:, ::-1] > 0, axis=1)
    np.testing.assert_array_equal(inverse_cdf(probs, np.zeros(400, np.float32)), first)
    np.testing.assert_array_equal(inverse_cdf(probs, np.ones(400, np.float32)), last)


@pytest.mark.parametrize(
    "settings",
    [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.0, 6, 1.0), (1.4, 0, 0.8), (0.8, 12, 0.9), (2.0, 0, 0.15), (1.0, 30, 0.4)],
)
def test_samples_follow_the_filtered_distribution(settings):
    n, logits = 20_000, (1.5 * np.random.default_rng(4).normal(size=40)).astype(np.float32)
    keys = jax.random.split(jax.random.key(5), n)
    drawn = np.asarray(sample(np.broadcast_to(logits, (n, 40)), keys, logits_lib.make_sampling(*settings)))
    p = by_sorting(logits, *settings)
    counts = np.bincount(drawn, minlength=40)
    assert counts[p == 0].sum() == 0
    kept = p > 0
    assert scipy.stats.chisquare(counts[kept], n * p[kept] / p[kept].sum()).pvalue > 1e-3


@pytest.mark.versions
@pytest.mark.fast
def test_temperature_zero_is_argmax_and_ignores_the_rest():
    logits = np.random.default_rng(6).normal(size=(50, 90)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 50)
    for top_k, top_p in ((0, 1.0), (3, 0.2)):
        found = sample(logits, keys, logits_lib.make_sampling(0.0, top_k, top_p))
        np.testing.assert_array_equal(found, logits.argmax(axis=1))


def test_logits_that_are_no_numbers_end_the_draw():
    logits = np.zeros((2, 8), np.float32)
    logits[1] = np.nan
    keys = jax.random.split(jax.random.key(0), 2)
    tokens = sample(logits, keys, logits_lib.make_sampling(1.0, 0, 0.5))
    assert 0 <= int(tokens[0]) < 8
    assert np.isnan(logits_lib.token_logprobs(jnp.asarray(logits), tokens)).tolist() == [False, True]


def test_a_row_s_token_depends_on_its_own_key_alone():
    logits = np.random.default_rng(7).normal(size=(6, 90)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    settings = logits_lib.make_sampling(1.0, 0, 0.95)
    together = np.asarray(sample(logits, keys, settings))
    order = np.array([4, 0, 5, 2, 1, 3])
    np.testing.assert_array_equal(sample(logits[order], keys[order], settings), together[order])
    same = np.asarray(sample(np.broadcast_to(logits[0], (6, 90)), keys, settings))
    assert len(set(same.tolist())) > 1


def test_token_logprobs_are_the_model_s_own():
    logits = (3 * np.random.default_rng(8).normal(size=(20, 33))).astype(np.float32)
    tokens = np.random.default_rng(9).integers(0, 33, 20)
    right = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        logits_lib.token_logprobs(jnp.asarray(logits), jnp.asarray(tokens)), right[np.arange(20), tokens], atol=1e-5
    )


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.3), (0, 0.999), (10, 1.0), (1, 1.0), (20, 0.7)])
def test_kept_tokens_are_those_of_transformers(top_k, top_p):
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers").generation.logits_process
    logits = (2 * np.random.default_rng(10).normal(size=(30, 211))).astype(np.float32)
    scores = torch.tensor(logits)
    if top_k:
        scores = processors.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = processors.TopPLogitsWarper(top_p)(None, scores)
    found = np.asarray(filtered_probs(logits, logits_lib.make_sampling(1.0, top_k, top_p)))
    np.testing.assert_array_equal(found > 0, np.isfinite(scores.numpy()))
    np.testing.assert_allclose(found, torch.softmax(scores, -1).numpy(), rtol=1e-4, atol=1e-9)
