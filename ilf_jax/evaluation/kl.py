"""How far two models are from each other: Kullback-Leibler divergence, estimated from samples of one of them."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


def divergence(
    name: str, own_logprobs: Sequence[np.ndarray], other_logprobs: Sequence[np.ndarray]
) -> list[statistics.Metric]:
    """KL(p || q) = E_p[log p - log q], in nats, from samples of p.

    Args:
        name: of the metric.
        own_logprobs, other_logprobs: for each sample, log p and log q of its tokens, in nats, the end token included.

    Returns:
        `name`: of whole sequences, the mean over samples with its SEM; `name`_per_token: the ratio of that to the mean
        number of tokens, its standard error by linearisation (Cochran 1977, eq. 6.9).

    Raises:
        ValueError: no samples, or the two do not have as many tokens.
    """
    if len(own_logprobs) != len(other_logprobs):
        raise ValueError(f"{name}: {len(own_logprobs)} samples under one model, {len(other_logprobs)} under the other")
    for i, (own, other) in enumerate(zip(own_logprobs, other_logprobs, strict=True)):
        if len(own) != len(other) or len(own) == 0:
            raise ValueError(f"{name}: sample {i} has {len(own)} and {len(other)} tokens; as many, and at least one, "
                             "are needed")
    differences = np.array([np.sum(np.asarray(own, np.float64) - other)
                            for own, other in zip(own_logprobs, other_logprobs, strict=True)])
    tokens = np.array([len(own) for own in own_logprobs], np.float64)
    whole = statistics.mean(name, differences.tolist())
    ratio = float(differences.sum() / tokens.sum())
    around = statistics.mean(name, ((differences - ratio * tokens) / tokens.mean()).tolist())
    return [whole, statistics.Metric(f"{name}_per_token", ratio, around.stderr, whole.n)]
