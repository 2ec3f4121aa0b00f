"""Rankings, against scipy and by hand."""

import numpy as np
import pytest
import scipy.stats

from ilf_jax.evaluation import ranking, systems
from ilf_jax.records import BestOfN, Example, Output

pytestmark = pytest.mark.fast

TEXTS = {i: "a b" for i in "abcd"}


def test_a_match_against_scipy():
    rng = np.random.default_rng(3)
    outcomes = {str(i): float(y) for i, y in enumerate(rng.choice([0, 0.5, 1], 60, p=[0.3, 0.2, 0.5]))}
    texts = {i: "a b c" for i in outcomes}
    found = ranking.match("ours", "theirs", outcomes, texts, texts)
    values = np.array(list(outcomes.values()))
    assert found.win_rate == pytest.approx(values.mean()) and found.stderr == pytest.approx(scipy.stats.sem(values))
    bounds = scipy.stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=1)
    np.testing.assert_allclose([found.low, found.high], bounds.confidence_interval, atol=0.02)
    assert found.length_controlled == pytest.approx(values.mean(), abs=1e-6)  # texts are as long
    assert (found.id, found.first, found.second) == ("ours vs theirs", "ours", "theirs")


def test_against_all_by_hand():
    matches = [ranking.match("x", "y", {"a": 1.0, "b": 0.5}, TEXTS, TEXTS),
               ranking.match("x", "z", {"a": 1.0, "b": 1.0}, TEXTS, TEXTS),
               ranking.match("y", "z", {"a": 0.0, "b": 1.0}, TEXTS, TEXTS)]
    assert ranking.against_all(matches) == {
        "x": {"a": 1.0, "b": 0.75}, "y": {"a": 0.0, "b": 0.75}, "z": {"a": 0.5, "b": 0.0}}


def test_names_of_systems():
    outputs = {0: {"a": Output("a", "old", 1, True, 0.0)}, 3: {"a": Output("a", "new", 1, True, 0.0)}}
    best = {k: {"a": BestOfN("a", ["p", "q"], [0.0, 1.0], 1)} for k in (0, 3)}
    assert systems.of_policies("random", 3, 2, outputs.__getitem__, best.__getitem__) == {
        "before_training": {"a": "old"}, "before_training_best_of_2": {"a": "q"},
        "random": {"a": "new"}, "random_best_of_2": {"a": "q"}}
    assert list(systems.of_policies("random", 0, 1, outputs.__getitem__, best.__getitem__)) == ["before_training"]
    held_out = [Example("a", "d", reference="r", human_refinement="h"), Example("b", "d", reference="s")]
    assert systems.of_people(held_out) == {"references": {"a": "r", "b": "s"}}
    assert systems.of_people([]) == {}
