"""Likelihood of given texts under a model."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


def negative_log_likelihood(name: str, logprobs: Sequence[np.ndarray]) -> statistics.Metric:
    """Mean over texts of -log p per token, in nats. Each text gives one array of token log-probabilities."""
    return statistics.mean(name, [float(-row.mean()) for row in logprobs])
