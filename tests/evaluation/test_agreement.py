"""Agreement: published examples, and what chance and perfection give."""

import numpy as np
import pytest

from ilf_jax.evaluation import agreement

pytestmark = pytest.mark.fast
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), example C: four observers, twelve units.
OBSERVERS = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]


def published():
    return {unit: {f"o{n}": int(row.split()[unit]) for n, row in enumerate(OBSERVERS) if row.split()[unit] != "."}
            for unit in range(12)}


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_a_published_table(level, value):
    found = agreement.alpha(published(), level)
    assert found.value == pytest.approx(value, abs=5e-4) and found.low < value < found.high
    assert found.n == 11  # the last unit has a single value


def test_kappa_of_a_published_table():
    # Wikipedia's example of Cohen's kappa: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; 0.4.
    said = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = agreement.kappa({i: {"a": a, "b": b} for i, (a, b) in enumerate(said)})
    assert found.value == pytest.approx(0.4) and found.low < 0.4 < found.high and found.n == 50


def test_perfect_and_chance():
    rng = np.random.default_rng(0)
    same = {i: {"a": x, "b": x} for i, x in enumerate(rng.integers(0, 3, 50).tolist())}
    assert (agreement.alpha(same).value, agreement.kappa(same).low) == (1, 1)
    chance = {i: {"a": int(a), "b": int(b)} for i, (a, b) in enumerate(rng.integers(0, 3, (500, 2)))}
    for found in (agreement.alpha(chance), agreement.kappa(chance)):
        assert found.low < 0 < found.high and abs(found.value) < 0.1
    assert agreement.alpha({i: {"a": "x", "b": "x"} for i in range(9)}).value == 1


def test_too_few_judgements_give_none():
    assert agreement.alpha({}) is agreement.alpha({1: {"a": 1, "b": 1}}) is None
    assert agreement.kappa(published()) is agreement.kappa({1: {"a": 1}, 2: {"a": 1}}) is None
