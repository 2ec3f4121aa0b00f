"""Every way to compute attention gives the same: blocks, one piece, the call to cuDNN, splash interpreted."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool
from ilf_jax.models import attention, kernels
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.runtime import progress, sharding

B, L, K, G, H = 2, 256, 2, 3, 64


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(1, 1, 1, jax.devices()[:1])


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    shapes = (B, L, K, G, H), (B, K, L, H), (B, K, L, H)
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q * H**-0.5, k, v


def plainly(q, k, v, segments, window):
    """One softmax over all keys, in float64, one query at a time."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros(q.shape)
    for b in range(B):
        for i in range(L):
            seen = [j for j in range(i + 1) if (segments is None or segments[b, j] == segments[b, i])
                    and (window is None or i - j < window)]
            scores = np.einsum("kgh,ksh->kgs", q[b, i], k[b][:, seen])
            exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[b, i] = np.einsum("kgs,ksh->kgh", exp / exp.sum(axis=-1, keepdims=True), v[b][:, seen])
    return out


@pytest.mark.parametrize("window", [None, 50, 200])
@pytest.mark.parametrize("packed", [False, True])
def test_all_kernels_equal_plain_attention(mesh, rows, packed, window):
    segments = np.repeat(np.array([[1, 2, 2, 0], [1, 1, 1, 2]], np.int32), L // 4, axis=1) if packed else None
    right = plainly(*rows, segments, window)
    np.testing.assert_allclose(attention.blockwise(*rows, segments, window), right, atol=2e-6)
    # The call that goes to cuDNN on an NVIDIA GPU, answered by jax.nn's own implementation.
    np.testing.assert_allclose(kernels.flash(*rows, segments, window, implementation="xla"), right, atol=2e-6)
    np.testing.assert_allclose(kernels.splash(*rows, segments, window, mesh), right, atol=2e-6)


def test_gradients_are_those_of_one_plain_softmax(mesh, rows):
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(B, L, K, G, H)), jnp.float32)

    def plain(q, k, v):
        scores = jnp.einsum("blkgh,bksh->bkgls", q, k)
        scores = jnp.where(jnp.tril(jnp.ones((L, L), bool)), scores, -jnp.inf)
        return jnp.sum(weight * jnp.einsum("bkgls,bksh->blkgh", jax.nn.softmax(scores), v))

    right = jax.grad(plain, argnums=(0, 1, 2))(*rows)
    ours = (lambda *r: attention.blockwise(*r, None, None), lambda *r: kernels.splash(*r, None, None, mesh))
    for kernel in ours:
        found = jax.grad(lambda *r, kernel=kernel: jnp.sum(weight * kernel(*r)), argnums=(0, 1, 2))(*rows)
        for a, b in zip(found, right, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("window", [None, 50])
def test_head_by_head_is_all_at_once(rows, window):
    """Candidates of 64 tokens behind each prefix: just enough of them for the loop to be taken."""
    (_, prefix_k, prefix_v), C, S = rows, 7, 64
    rng = np.random.default_rng(2)
    q = jnp.asarray(rng.normal(size=(B, C, S, K, 2, H)), jnp.float32) * H**-0.5
    own = tuple(jnp.asarray(rng.normal(size=(B, K, C, S, H)), jnp.float32) for _ in range(2))
    lengths = jnp.array([L, L - 70])
    positions = jnp.broadcast_to(lengths[:, None, None] + jnp.arange(S), (B, C, S))
    distance = jnp.broadcast_to(jnp.arange(S)[:, None] - jnp.arange(S), (B, C, S, S))

    def attend(one_by_one):
        return functools.partial(attention.behind_prefix, window=window, one_by_one=one_by_one)

    given = q, (prefix_k, prefix_v), lengths, own, positions, distance

    def temporary_bytes(one_by_one, arrays):
        return jax.jit(attend(one_by_one)).lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    # Scores of one document and key head at a time.
    assert temporary_bytes(True, given) < 0.75 * temporary_bytes(False, given)
    fewer = q[:, :-1], (prefix_k, prefix_v), lengths, [a[:, :, :-1] for a in own], positions[:, :-1], distance[:, :-1]
    assert temporary_bytes(True, fewer) == temporary_bytes(False, fewer)  # too few to be worth a loop
    np.testing.assert_allclose(jax.jit(attend(True))(*given), jax.jit(attend(False))(*given), atol=1e-6)


def test_splash_falls_back_where_it_does_not_fit_and_says_so(mesh, rows, monkeypatch):
    compute, (q, k, v) = ComputeOptions(attention="splash", mesh=mesh), rows
    short = q[:, :100], k[:, :, :100], v[:, :, :100]
    assert kernels.why_not_splash(q.shape, mesh) is None
    said = []
    monkeypatch.setattr(progress, "log", said.append)
    kernels.say_fallback.cache_clear()
    for _ in range(2):  # said once
        found = attention.causal(*short, None, None, 0.0, compute)
    assert said == ["attention: XLA computes it in place of splash attention, which takes rows of a multiple of 128 "
                    "tokens, not 100"]
    np.testing.assert_array_equal(found, attention.blockwise(*short, None, None))


@pytest.mark.parametrize("window", [None, 50])
def test_soft_capped_scores(mesh, rows, window):
    cap, (q, k, v) = 0.5, rows
    scores = cap * np.tanh(np.einsum("blkgh,bksh->bkgls", q, k) / cap)
    distance = np.arange(L)[:, None] - np.arange(L)
    seen = (distance >= 0) & (distance < (window or L))
    right = np.einsum("bkgls,bksh->blkgh", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), v)
    assert np.abs(right - plainly(*rows, None, window)).max() > 1e-3
    for compute in (ComputeOptions(), ComputeOptions(attention="cudnn"), ComputeOptions(attention="splash", mesh=mesh)):
        np.testing.assert_allclose(attention.causal(*rows, None, window, cap, compute), right, atol=2e-6)


def test_which_kernel_a_config_gets(mesh):
    config, half = config_lib.Config(precision="float32"), config_lib.Config(precision="bfloat16")
    assert model_pool.compute_of(config, mesh) == ComputeOptions(one_by_one=True)
    # A CPU has no kernel of its own.
    assert model_pool.compute_of(half, mesh) == ComputeOptions(jnp.bfloat16, one_by_one=True)
    splash = model_pool.compute_of(dataclasses.replace(config, attention="splash"), mesh)
    assert (splash.attention, splash.mesh) == ("splash", mesh)
    with pytest.raises(InputError, match=r"config\.attention='cudnn' needs an NVIDIA GPU.*'xla' runs everywhere"):
        model_pool.compute_of(dataclasses.replace(half, attention="cudnn"), mesh)


@pytest.mark.fast
@pytest.mark.parametrize(("head_dim", "capability", "taken"), [
    (256, "8.0", False), (256, "8.9", False), (128, "8.0", True), (256, "9.0", True), (256, "12.0", True),
    (320, "9.0", False), (64, "7.5", False), (60, "9.0", False), (64, "gfx942", False),
])
def test_which_heads_cudnn_takes(head_dim, capability, taken):
    assert (kernels.why_not_flash(head_dim, capability) is None) == taken


def test_heads_that_cudnn_does_not_take_are_computed_by_xla(monkeypatch):
    """Gemma 3's, on an A100; said once for all models of that kind."""
    config, model = config_lib.Config(precision="bfloat16"), SimpleNamespace(head_dim=256)

    def chosen(capability):
        device = SimpleNamespace(platform="gpu", compute_capability=capability)
        return model_pool.compute_of(config, SimpleNamespace(devices=np.array([device]), size=1), model).attention

    said = []
    monkeypatch.setattr(progress, "log", said.append)
    model_pool._cudnn_or_xla.cache_clear()
    assert [chosen("8.0"), chosen("8.0"), chosen("9.0")] == ["xla", "xla", "cudnn"]
    (line,) = said
    assert line.startswith("attention of head_dim 256 is computed by XLA: cuDNN's flash attention takes a head_dim of")
