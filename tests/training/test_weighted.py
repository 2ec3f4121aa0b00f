"""Property 6: the weighted objective against enumeration of everything that a tiny model can say."""

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.models import transformer
from ilf_jax.models.architecture import small_shape
from ilf_jax.scoring import selection
from ilf_jax.training import objectives, packing
from ilf_jax.training.objectives import weighted

V, BETA = 6, 1.7
CONFIG = small_shape(width=32, layers=2, vocab_size=V)
PROMPT = [1, 4, 2]
OUTPUTS = [(a, b) for a in range(V) for b in range(V)]  # every output of two tokens
SCORES = np.random.default_rng(3).random(len(OUTPUTS))


def make_params():
    # Ten times as large as usual: a model that already prefers some outputs.
    return jax.tree.map(lambda a: 10 * a if a.ndim == 2 else a, transformer.init_params(CONFIG, jax.random.key(5)))


def log_policy(params):
    """log pi(output | prompt) of every output, by the chain rule over full forward passes, without packing."""
    rows = jnp.array([[*PROMPT, *output] for output in OUTPUTS])
    logits = transformer.unembed(CONFIG, params, transformer.forward(CONFIG, params, rows))
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    at = len(PROMPT) - 1
    first = jnp.take_along_axis(logprobs[:, at], rows[:, at + 1, None], axis=-1)[:, 0]
    second = jnp.take_along_axis(logprobs[:, at + 1], rows[:, at + 2, None], axis=-1)[:, 0]
    return first + second


def posterior():
    unnormalised = np.exp(BETA * SCORES)
    return unnormalised / unnormalised.sum()


def divergence(params):
    """KL(pi* || pi_theta) over all outputs."""
    target = jnp.asarray(posterior(), jnp.float32)
    return jnp.sum(target * (jnp.log(target) - log_policy(params)))


def weighted_loss(params):
    """The objective as finetuning computes it: packed rows, every candidate with its weight."""
    weights = weighted.posterior_weights(SCORES[None], np.ones((1, len(OUTPUTS)), bool), BETA)[0]
    # The last token of an output stands where a run has its end token: predicted like all others.
    examples = [packing.training_example(PROMPT, [a], b, prompt_weight=0.0).scaled(float(w))
                for (a, b), w in zip(OUTPUTS, weights, strict=True)]
    rows = packing.pack([len(e) for e in examples], 16, merge=True)
    batch = packing.assemble(examples, rows, num_rows=len(rows), row_length=16,
                             num_targets=packing.targets_per_row(examples, rows))
    return objectives.NextToken(CONFIG)(params, {}, batch)[0]


def test_weighted_loss_is_the_divergence_and_the_entropy_of_the_posterior():
    params = make_params()
    p = posterior()
    entropy = -np.sum(p * np.log(p))
    assert float(divergence(params)) > 0.1
    np.testing.assert_allclose(float(weighted_loss(params)), float(divergence(params)) + entropy, rtol=1e-5)


def test_its_gradient_is_that_of_the_divergence():
    params = make_params()
    ours, theirs = jax.grad(weighted_loss)(params), jax.grad(divergence)(params)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(theirs))
    assert largest > 1e-2
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)


def test_beta_to_infinity_is_best_of_n_and_zero_is_uniform():
    mask = np.array([[True, True, False, True]])
    scores = np.array([[0.1, 0.7, 0.9, 0.3]])
    best = selection.best_of_n(scores, mask)[0]
    np.testing.assert_allclose(weighted.posterior_weights(scores, mask, 1e4)[0], np.eye(4)[best], atol=1e-12)
    np.testing.assert_allclose(weighted.posterior_weights(scores, mask, 0.0)[0], [1 / 3, 1 / 3, 0, 1 / 3])
    none = np.zeros_like(mask)
    np.testing.assert_allclose(weighted.posterior_weights(scores, none, 0.0)[0], [0.25] * 4)
