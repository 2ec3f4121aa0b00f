"""The decode loop: sampler = trainer, seeds, independence of neighbours, end tokens, limits, greedy."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ilf_jax.models import transformer
from ilf_jax.models.architecture import small_shape
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.steps import refine_step
from ilf_jax.training import objectives, packing

V, P, L = 64, 16, 10
CONFIG = dataclasses.replace(
    small_shape(32, 2, V), num_heads=4, num_kv_heads=2, head_dim=8, sliding_window=6, sliding_pattern=2
)
PROMPTS = [[5, 9, 2], [11, 3, 8, 40, 41, 42, 43, 7, 1, 2, 63, 12, 13], [6], [30, 31, 32, 33, 34, 35, 36]]
IDS = ["one", "two", "three", "four"]
NO_ENDS = np.zeros(V, bool)
ENDS = np.isin(np.arange(V), range(0, V, 5))
NUCLEUS = make_sampling(0.9, 0, 0.95)

step = jax.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens"))
forward = jax.jit(transformer.forward, static_argnums=0)


@functools.cache
def random_params(config=CONFIG):
    leaves, tree = jax.tree.flatten(transformer.init_params(config, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def generate(rows, *, seed=0, candidates=(0, 1, 2), batch=4, sampling=NUCLEUS, ends=ENDS, limit=L):
    """Samples for PROMPTS[i] for i in rows; None stands for a row that only fills up the batch."""
    tokens, lengths = np.full((batch, P), 17, np.int32), np.zeros(batch, np.int32)
    keys = np.zeros((batch, len(candidates), 2), np.uint32)
    for b, i in enumerate(rows):
        if i is None:
            continue
        tokens[b, : len(PROMPTS[i])], lengths[b] = PROMPTS[i], len(PROMPTS[i])
        keys[b] = decode.candidate_keys(seed, 1, "refine", [IDS[i]], candidates)[0]
    return jax.device_get(step(CONFIG, random_params(), tokens, lengths, keys, sampling, ends, max_new_tokens=limit))


def test_logprobs_are_those_of_the_training_forward_pass():
    out = generate(range(4))
    assert out.mask_BxCxL.sum() > 40
    examples = []
    for b, prompt in enumerate(PROMPTS):
        for c in range(3):
            tokens = out.tokens_BxCxL[b, c][out.mask_BxCxL[b, c]]
            weights = np.repeat([0.0, 1.0], [len(prompt), len(tokens)]).astype(np.float32)
            examples.append(packing.TrainingExample(np.array([*prompt, *tokens], np.int32), weights))
    batch = packing.assemble(examples, [[i] for i in range(12)], num_rows=12, row_length=P + L, num_targets=L)
    again = jax.jit(objectives.sequence_logprobs, static_argnums=0)(CONFIG, random_params(), batch)
    np.testing.assert_allclose(np.asarray(again).reshape(4, 3, L), out.logprobs_BxCxL, atol=1e-4)
    assert np.all(out.logprobs_BxCxL[out.mask_BxCxL] < 0)


def test_same_seed_same_samples_other_seed_other_samples():
    first, again, other = generate(range(4)), generate(range(4)), generate(range(4), seed=1)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.tokens_BxCxL, other.tokens_BxCxL)


def test_candidates_differ():
    out = generate(range(4), ends=NO_ENDS)
    for tokens_CxL in out.tokens_BxCxL:
        assert len({tuple(row) for row in tokens_CxL.tolist()}) == 3


def test_keys_tell_everything_apart():
    def keys(seed=0, iteration=1, purpose="refine", ids=("a", "b"), candidates=(0, 1)):
        return decode.candidate_keys(seed, iteration, purpose, ids, candidates)

    plain = keys()
    assert plain.shape == (2, 2, 2)
    assert plain.dtype == np.uint32
    np.testing.assert_array_equal(plain, keys())
    variants = [plain, keys(seed=1), keys(iteration=2), keys(purpose="draft"), keys(ids=("c", "d")),
                keys(candidates=(2, 3)), keys(seed=11, iteration=1), keys(seed=1, iteration=11)]
    flat = [tuple(key) for k in variants for key in k.reshape(-1, 2).tolist()]
    assert len(set(flat)) == len(flat)
    np.testing.assert_array_equal(keys(ids=("b",), candidates=(1,))[0, 0], plain[1, 1])


@pytest.mark.parametrize(
    ("rows", "batch", "candidates"),
    [
        ([3, 1, 0, 2], 4, (0, 1, 2)),  # another order
        ([1], 1, (0, 1, 2)),  # alone
        ([0, None, 2, None], 4, (0, 1, 2)),  # rows that fill up
        ([2, 1, None, 0, None, 3, None], 7, (2, 0)),  # another batch size, other candidates beside it
    ],
)
def test_a_document_s_samples_do_not_depend_on_its_neighbours(rows, batch, candidates):
    right = generate(range(4))
    found = generate(rows, batch=batch, candidates=candidates)
    for b, i in enumerate(rows):
        for c, candidate in enumerate(candidates):
            if i is None:
                assert not found.mask_BxCxL[b, c].any()
                continue
            np.testing.assert_array_equal(found.tokens_BxCxL[b, c], right.tokens_BxCxL[i, candidate])
            np.testing.assert_array_equal(found.mask_BxCxL[b, c], right.mask_BxCxL[i, candidate])
            np.testing.assert_allclose(found.logprobs_BxCxL[b, c], right.logprobs_BxCxL[i, candidate], atol=1e-5)
            assert found.stopped_BxC[b, c] == right.stopped_BxC[i, candidate]


@pytest.mark.fast
def test_an_end_token_stops_its_row_and_no_other():
    free, out = generate(range(4), ends=NO_ENDS), generate(range(4))
    lengths = set()
    for b in range(4):
        for c in range(3):
            unstopped = free.tokens_BxCxL[b, c]
            ends = np.flatnonzero(ENDS[unstopped])
            n = ends[0] + 1 if len(ends) else L
            lengths.add(int(n))
            np.testing.assert_array_equal(out.tokens_BxCxL[b, c, :n], unstopped[:n])  # the end token included
            np.testing.assert_array_equal(out.mask_BxCxL[b, c], np.arange(L) < n)
            assert not out.tokens_BxCxL[b, c, n:].any()
            assert not out.logprobs_BxCxL[b, c, n:].any()
            assert out.stopped_BxC[b, c] == bool(len(ends))
    assert len(lengths) > 2  # rows do end at different steps
    assert not free.stopped_BxC.any()
    assert free.mask_BxCxL.all()


@pytest.mark.parametrize("limit", [1, 4])
def test_no_more_than_max_new_tokens(limit):
    out, longer = generate(range(4), limit=limit, ends=NO_ENDS), generate(range(4), ends=NO_ENDS)
    assert out.tokens_BxCxL.shape == (4, 3, limit)
    np.testing.assert_array_equal(out.tokens_BxCxL, longer.tokens_BxCxL[:, :, :limit])
    assert not out.stopped_BxC.any()


def test_an_end_token_at_the_limit_counts_as_stopped():
    free = generate(range(4), ends=NO_ENDS)
    n = 3
    token = int(free.tokens_BxCxL[1, 0, n - 1])
    out = generate(range(4), ends=np.arange(V) == token, limit=n)
    np.testing.assert_array_equal(out.stopped_BxC, (free.tokens_BxCxL[:, :, :n] == token).any(axis=-1))
    assert out.stopped_BxC[1, 0]


def test_decoding_stops_when_every_row_has_ended(monkeypatch):
    calls, decode_step = [], transformer.decode_step

    def counted(*args, **kwargs):
        jax.debug.callback(lambda: calls.append(1))
        return decode_step(*args, **kwargs)

    monkeypatch.setattr(transformer, "decode_step", counted)
    limit, found = 23, []  # a shape of its own, so that nothing compiled before is used
    for ends, rows in ((np.ones(V, bool), [0, 1]), (ENDS, [0, None]), (NO_ENDS, [None, None]), (NO_ENDS, [0, 1])):
        calls.clear()
        out = generate(rows, batch=2, candidates=(0,), ends=ends, limit=limit)
        jax.effects_barrier()
        found.append(int(out.mask_BxCxL.sum(axis=-1).max()))
        assert len(calls) == max(0, found[-1] - 1)  # the first token comes from the prompt's own last hidden state
    assert found[0] == 1
    assert 1 < found[1] < limit
    assert found[2:] == [0, limit]


@pytest.mark.versions
@pytest.mark.fast
def test_greedy_equals_argmax_over_full_forward_passes():
    out = generate(range(4), sampling=make_sampling(0.0, 0, 1.0), ends=NO_ENDS, candidates=(0, 1))
    rows, lengths = np.zeros((4, P + L), np.int32), np.array([len(p) for p in PROMPTS])
    for b, prompt in enumerate(PROMPTS):
        rows[b, : len(prompt)] = prompt
    for _ in range(L):
        hidden = np.asarray(forward(CONFIG, random_params(), rows))[np.arange(4), lengths - 1]
        rows[np.arange(4), lengths] = np.asarray(transformer.unembed(CONFIG, random_params(), hidden)).argmax(axis=-1)
        lengths += 1
    for b, prompt in enumerate(PROMPTS):
        for c in range(2):
            np.testing.assert_array_equal(out.tokens_BxCxL[b, c], rows[b, len(prompt) : len(prompt) + L])


@pytest.mark.parametrize("sampling", [make_sampling(0.0, 0, 1.0), make_sampling(1.5, 0, 1.0)], ids=["greedy", "hot"])
def test_tokens_without_text_are_never_drawn(sampling):
    """The tokens drawn most often are forbidden; the log-probabilities of the others stay the model's."""
    free = generate(range(4), sampling=sampling, ends=NO_ENDS)
    forbidden = np.argsort(-np.bincount(free.tokens_BxCxL.ravel(), minlength=V))[:3]
    ends = np.zeros(V, np.int8)
    ends[forbidden] = -1
    out = generate(range(4), sampling=sampling, ends=ends)
    assert out.mask_BxCxL.all() and not np.isin(out.tokens_BxCxL, forbidden).any()
    same = np.cumprod(free.tokens_BxCxL == out.tokens_BxCxL, axis=2).astype(bool)
    assert same.any()
    np.testing.assert_allclose(out.logprobs_BxCxL[same], free.logprobs_BxCxL[same], atol=1e-6)
