"""Power-law fits against laws that are known."""

import numpy as np
import pytest

from ilf_jax.evaluation import scaling

pytestmark = pytest.mark.fast

X = [100, 300, 1000, 3000, 10_000]


@pytest.mark.parametrize("law", [scaling.PowerLaw(5.0, 0.5, 1.2), scaling.PowerLaw(80.0, 0.9, 0.05),
                                 scaling.PowerLaw(2.0, 0.12, 0.3)])
def test_a_law_is_found_again(law):
    found = scaling.fit(X, law(X))
    np.testing.assert_allclose(found([*X, 100_000]), law([*X, 100_000]), rtol=1e-3)
    assert found.b == pytest.approx(law.b, rel=0.05)


def test_an_outlier_changes_little():
    """Least squares in logarithms would follow it; the Huber loss does not."""
    law = scaling.PowerLaw(5.0, 0.5, 1.0)
    y = np.concatenate([law(X)] * 3)
    y[7] *= 1.5
    np.testing.assert_allclose(scaling.fit(X * 3, y)(X), law(X), rtol=0.02)


def test_intervals_widen_with_the_spread_and_hold_the_mean():
    law, rng = scaling.PowerLaw(5.0, 0.5, 1.0), np.random.default_rng(0)
    noise, widths = rng.normal(0, 1, (len(X), 8)), []
    noise -= noise.mean(axis=1, keepdims=True)  # so that the law is the very middle of the data
    for scale in (0.002, 0.02):
        values = {x: y * np.exp(scale * of_x) for x, y, of_x in zip(X, law(X), noise, strict=True)}
        whole = scaling.fit([x for x in X for _ in range(8)], np.concatenate(list(values.values())))
        low, high = scaling.interval(scaling.bootstrap(values, whole, draws=20), X)
        assert (low < law(X)).all() and (law(X) < high).all()
        widths.append(np.mean(np.log(high / low)))
    assert widths[0] > 0 and widths[1] > 3 * widths[0]


@pytest.mark.parametrize(("x", "y", "message"), [
    (X[:3], [3, 2, 1], "4 distinct x; there are 3"),
    (X, [3, 2, 1, float("nan"), 1], "positive numbers; y has"),
    (X, [3, 2, 1, 0, 0], "positive numbers"),
    ([0, *X[1:]], [5, 4, 3, 2, 1], "x has"),
])
def test_what_cannot_be_fitted(x, y, message):
    with pytest.raises(ValueError, match=message):
        scaling.fit(x, y)
