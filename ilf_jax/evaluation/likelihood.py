"""Likelihood of given texts under a model."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


def of_texts(logprobs: Sequence[np.ndarray]) -> list[float]:
    """-log p per token of each text, in nats. Each text gives one array of token log-probabilities."""
    return [float(-row.mean()) for row in logprobs]


def negative_log_likelihood(name: str, logprobs: Sequence[np.ndarray]) -> statistics.Metric:
    """Mean of `of_texts` over texts."""
    return statistics.mean(name, of_texts(logprobs))
