"""How likely a model finds given texts."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics


def negative_log_likelihood(name: str, logprobs: Sequence[np.ndarray]) -> statistics.Metric:
    """Mean over texts of -log p a token, in nats (lower is closer); one array of token log-probabilities a text."""
    return statistics.mean(name, [float(-row.mean()) for row in logprobs])
