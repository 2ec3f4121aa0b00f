"""KL from samples against the sum over everything that could be sampled."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ilf_jax.evaluation import kl

pytestmark = pytest.mark.fast

V, END, LIMIT = 4, 0, 3


def random_model(rng):
    """log p(next | sequence so far) of every sequence of up to LIMIT tokens."""
    contexts = [s for n in range(LIMIT) for s in itertools.product(range(1, V), repeat=n)]
    return {s: np.log(rng.dirichlet(np.ones(V))) for s in contexts}


def sequences():
    """All that can be drawn: up to LIMIT tokens, the end token last where one comes."""
    for n in range(LIMIT):
        for s in itertools.product(range(1, V), repeat=n):
            yield (*s, END)
    yield from itertools.product(range(1, V), repeat=LIMIT)


def logprobs(model, sequence):
    return np.array([model[sequence[:i]][token] for i, token in enumerate(sequence)])


def exact(p, q):
    """(KL of sequences, that over the expected number of tokens)."""
    rows = [(np.exp(logprobs(p, s).sum()), logprobs(p, s).sum() - logprobs(q, s).sum(), len(s)) for s in sequences()]
    assert sum(row[0] for row in rows) == pytest.approx(1)
    whole = sum(prob * difference for prob, difference, _ in rows)
    return whole, whole / sum(prob * n for prob, _, n in rows)


def draw(rng, model):
    sequence = ()
    while len(sequence) < LIMIT and sequence[-1:] != (END,):
        sequence += (int(rng.choice(V, p=np.exp(model[sequence]))),)
    return sequence


@pytest.mark.parametrize("seed", range(4))
def test_within_three_standard_errors_of_the_exact_value(seed):
    rng = np.random.default_rng(seed)
    p, q = random_model(rng), random_model(rng)
    samples = [draw(rng, p) for _ in range(2000)]
    found = kl.divergence("kl", *([logprobs(model, s) for s in samples] for model in (p, q)))
    for metric, right in zip(found, exact(p, q), strict=True):
        assert abs(metric.value - right) < 3 * metric.stderr, metric
        assert 0 < metric.stderr < 0.1 * right + 0.1
    assert [m.name for m in found] == ["kl", "kl_per_token"]
    differences = [logprobs(p, s).sum() - logprobs(q, s).sum() for s in samples]
    assert found[0].stderr == pytest.approx(scipy.stats.sem(differences))


def test_error_of_the_ratio_is_that_of_many_repetitions():
    rng = np.random.default_rng(7)
    p, q = random_model(rng), random_model(rng)
    runs = []
    for _ in range(200):
        samples = [draw(rng, p) for _ in range(100)]
        runs.append(kl.divergence("kl", *([logprobs(model, s) for s in samples] for model in (p, q)))[1])
    spread = np.std([m.value for m in runs], ddof=1)
    assert np.mean([m.stderr for m in runs]) == pytest.approx(spread, rel=0.2)


def test_a_model_is_no_distance_from_itself():
    rows = [np.log([0.5, 0.25]), np.log([0.1])]
    assert [m.value for m in kl.divergence("kl", rows, rows)] == [0.0, 0.0]


@pytest.mark.parametrize(("own", "other", "words"), [
    ([np.zeros(2)], [], "1 samples"), ([np.zeros(2)], [np.zeros(3)], "2 and 3 tokens"),
    ([np.zeros(0)], [np.zeros(0)], "at least 1"), ([], [], "no values"),
])
def test_bad_input(own, other, words):
    with pytest.raises(ValueError, match=words):
        kl.divergence("kl", own, other)
