"""Which way is better: by the task, else by the first words of a metric's name."""

import pytest

from ilf_jax.evaluation.directions import direction

pytestmark = pytest.mark.fast

OF_TASK = {"sharpness": "higher", "loss_of_detail": "higher"}


@pytest.mark.parametrize(("metric", "expected"), [
    ("win_rate", "higher"), ("win_rate_length_controlled", "higher"), ("win_rate[ilf vs initial]", "higher"),
    ("rouge_l[news]", "higher"), ("nll_human_refinement", "lower"), ("kl", "lower"), ("loss", "lower"),
    ("equal_candidates", "lower"), ("documents_with_equal_candidates", "lower"), ("exact_match_chosen", "higher"),
    ("sharpness", "higher"), ("sharpness[10 words]", "higher"), ("loss_of_detail", "higher"),
    ("mean_words", None), ("lossy", None), ("clarity", None),
])
def test_direction(metric, expected):
    assert direction(metric, OF_TASK) == expected
