"""Win rates from a judge that sees every pair in both orders: raw, and length-controlled."""

from collections.abc import Sequence

import numpy as np
import scipy  # scipy.optimize takes a fifth of a second to import: at its first use

from ilf_jax.evaluation import statistics


def outcomes(prob_a_when_first: Sequence[float], prob_a_when_second: Sequence[float]) -> np.ndarray:
    """Our outcome on each document: win 1, tie 0.5, loss 0.

    We win if the judge prefers our text in both orders, lose if it prefers the other text in both, and tie otherwise.
    So a judge that always prefers one position gives only ties. A probability of exactly 0.5 prefers neither. Swapping
    the two sides turns each outcome y into 1 - y.

    Args:
        prob_a_when_first: the judge's probability of "A" when A is our text.
        prob_a_when_second: the judge's probability of "A" when A is the other text and B is ours.

    Raises:
        ValueError: there are no documents, the lengths differ, or a number is not in [0, 1].
    """
    first = _probabilities("win rate, ours first", prob_a_when_first)
    second = _probabilities("win rate, ours second", prob_a_when_second)
    if first.size != second.size:
        raise ValueError(f"win rate: {first.size} documents in one order, {second.size} in the other")
    wins = (first > 0.5) & (second < 0.5)
    losses = (first < 0.5) & (second > 0.5)
    return np.where(wins, 1.0, np.where(losses, 0.0, 0.5))


def win_rate(
    prob_a_when_first: Sequence[float], prob_a_when_second: Sequence[float], name: str = "win_rate"
) -> statistics.Metric:
    """Mean outcome in [0, 1], with SEM. Arguments and errors as for `outcomes`."""
    return statistics.mean(name, outcomes(prob_a_when_first, prob_a_when_second).tolist())


def length_controlled_win_rate(
    results: Sequence[float],
    our_lengths: Sequence[float],
    other_lengths: Sequence[float],
    name: str = "win_rate_length_controlled",
    ridge: float = 1.0,
) -> statistics.Metric:
    """The win rate expected for texts of equal length.

    Follows length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475), with only the length term. A logistic
    regression fits the outcomes y_i:

        P(win_i) = sigmoid(a + b * d_i),   d_i = tanh((our_i - other_i) / s),   s = root mean square of (our - other),
        a, b = argmin  sum_i -[y_i log P(win_i) + (1 - y_i) log(1 - P(win_i))] + ridge / 2 * b^2,

    A tie counts as half a win; the rate is sigmoid(a). The ridge keeps b finite if length decides every outcome. The
    standard error is the delta method on the covariance n / (n - 1) * H^-1 (sum_i r_i^2 x_i x_i^T) H^-1, with
    x_i = (1, d_i), residuals r_i and Hessian H. If lengths never differ, value and error are those of `win_rate`. So
    they are if all outcomes are 0 or all are 1, because a then has no finite estimate.

    Args:
        results: the result of `outcomes`, each in [0, 1].
        our_lengths: length of each of our texts, in any unit (words, tokens).
        other_lengths: length of each of the other texts, in the same unit.
        name: name of the metric.
        ridge: weight of the penalty, > 0.

    Raises:
        ValueError: there are no documents, the lengths differ, a value is not finite or out of range, or the
            regression did not converge.
    """
    y = _probabilities(name, results)
    ours, others = (statistics.check_finite(f"{name}, lengths", lengths) for lengths in (our_lengths, other_lengths))
    if not y.size == ours.size == others.size:
        raise ValueError(f"{name}: {y.size} outcomes, {ours.size} and {others.size} lengths; must be equal")
    if ridge <= 0:
        raise ValueError(f"{name}: ridge is {ridge}; must be > 0")
    difference = ours - others
    scale = float(np.sqrt(np.mean(difference**2)))
    if scale == 0.0 or y.min() == y.max() == 0.0 or y.min() == y.max() == 1.0:
        return statistics.mean(name, y.tolist())
    x_Nx2 = np.stack([np.ones_like(y), np.tanh(difference / scale)], axis=1)
    penalty = np.diag([0.0, ridge])

    def loss(w: np.ndarray) -> float:
        z = x_Nx2 @ w
        return float(np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * w @ penalty @ w)

    def gradient(w: np.ndarray) -> np.ndarray:
        return x_Nx2.T @ (scipy.special.expit(x_Nx2 @ w) - y) + penalty @ w

    def hessian(w: np.ndarray) -> np.ndarray:
        p = scipy.special.expit(x_Nx2 @ w)
        return (x_Nx2.T * (p * (1 - p))) @ x_Nx2 + penalty

    fit = scipy.optimize.minimize(loss, np.zeros(2), jac=gradient, hess=hessian, method="trust-exact",
                            options={"gtol": 1e-8 * y.size})
    if not np.isfinite(fit.x).all() or np.abs(gradient(fit.x)).max() > 1e-4 * y.size:
        raise ValueError(f"{name}: the logistic regression did not converge: {fit.message}")
    rate = float(scipy.special.expit(fit.x[0]))
    inverse = np.linalg.inv(hessian(fit.x))
    residual = y - scipy.special.expit(x_Nx2 @ fit.x)
    covariance = inverse @ ((x_Nx2.T * residual**2) @ x_Nx2) @ inverse
    correction = y.size / (y.size - 1) if y.size > 1 else float("nan")
    stderr = rate * (1 - rate) * float(np.sqrt(correction * covariance[0, 0]))
    return statistics.Metric(name, rate, stderr, y.size)


def _probabilities(name: str, values: Sequence[float]) -> np.ndarray:
    array = statistics.check_finite(name, values)
    if array.min() < 0.0 or array.max() > 1.0:
        raise ValueError(f"{name}: values must be in [0, 1], but range from {array.min()} to {array.max()}")
    return array
