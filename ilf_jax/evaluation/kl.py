"""Kullback-Leibler divergence between two models, estimated from samples of one of them."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


def of_samples(own_logprobs: Sequence[np.ndarray], other_logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """log p - log q of each whole sample, in nats; arguments as in `divergence`."""
    return np.array([np.sum(np.asarray(own, np.float64) - other)
                     for own, other in zip(own_logprobs, other_logprobs, strict=True)])


def divergence(
    name: str, own_logprobs: Sequence[np.ndarray], other_logprobs: Sequence[np.ndarray]
) -> list[statistics.Metric]:
    """KL(p || q) = E_p[log p - log q], in nats, from samples of p.

    Args:
        name: name of the metric.
        own_logprobs: log p of each sample's tokens, in nats, end token included.
        other_logprobs: log q of the same tokens.

    Returns:
        `name`: the divergence of whole sequences, mean over samples with SEM. `name`_per_token: its ratio to the mean
        number of tokens, with standard error by linearisation (Cochran 1977, eq. 6.9).

    Raises:
        ValueError: there are no samples, a sample has no tokens, or the numbers of samples or tokens differ.
    """
    if len(own_logprobs) != len(other_logprobs):
        raise ValueError(f"{name}: {len(own_logprobs)} samples under one model, {len(other_logprobs)} under the other")
    for i, (own, other) in enumerate(zip(own_logprobs, other_logprobs, strict=True)):
        if len(own) != len(other) or len(own) == 0:
            raise ValueError(f"{name}: sample {i} has {len(own)} and {len(other)} tokens; must be equal and at "
                             "least 1")
    differences = of_samples(own_logprobs, other_logprobs)
    tokens = np.array([len(own) for own in own_logprobs], np.float64)
    per_sequence = statistics.mean(name, differences.tolist())
    ratio = float(differences.sum() / tokens.sum())
    linearised = statistics.mean(name, ((differences - ratio * tokens) / tokens.mean()).tolist())
    return [per_sequence, statistics.Metric(f"{name}_per_token", ratio, linearised.stderr, per_sequence.n)]
