"""Robust fits of scaling laws, y = a x^-b + c, with intervals from the spread over seeds."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # scipy.optimize takes a fifth of a second to import: at its first use
from numpy.typing import ArrayLike

MIN_POINTS = 4
_HUBER_DELTA = 1e-3  # in log y (Hoffmann et al. 2022, appendix D.2)


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = a x^-b + c, with a > 0 and c >= 0."""

    a: float
    b: float
    c: float

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """y at each x."""
        return self.a * np.asarray(x, np.float64) ** -self.b + self.c


def fit(x: ArrayLike, y: ArrayLike, near: PowerLaw | None = None) -> PowerLaw:
    """The power law that minimises the Huber loss between logarithms (Hoffmann et al. 2022, eq. 3).

    Args:
        x: positive numbers.
        y: positive numbers, one for each x.
        near: initial guess. None tries many and returns the best fit.

    Raises:
        ValueError: there are fewer than four distinct x, or a value is not finite and positive.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for name, values in (("x", xs), ("y", ys)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"a power law needs positive numbers; {name} has {values.tolist()}")
    distinct = len(set(xs.tolist()))
    if distinct < MIN_POINTS:
        raise ValueError(f"a power law with offset has three unknowns and takes {MIN_POINTS} distinct x; there are "
                         f"{distinct}")
    log_x, log_y = np.log(xs), np.log(ys)

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.logaddexp(p[0] - p[1] * log_x, p[2]) - log_y

    solutions = [
        scipy.optimize.least_squares(residuals, np.log([law.a, np.exp(law.b), law.c]), loss="huber",
                                     f_scale=_HUBER_DELTA, x_scale="jac", max_nfev=500)
        for law in ([near] if near else _starts(xs, ys))
    ]
    log_a, b, log_c = min(solutions, key=lambda solution: solution.cost).x
    return PowerLaw(float(np.exp(log_a)), float(b), float(np.exp(log_c)))


def _starts(x: np.ndarray, y: np.ndarray) -> list[PowerLaw]:
    """Initial guesses: laws of several exponents and offsets through the middle of the data."""
    laws = []
    for b, share in itertools.product((0.1, 0.3, 0.6, 1.0, 1.5), (0.01, 0.3, 0.6, 0.9)):
        c = share * y.min()
        laws.append(PowerLaw(float(np.median((y - c) * x**b)), b, float(c)))
    return laws


def bootstrap(
    values: Mapping[float, Sequence[float]], law: PowerLaw, *, draws: int = 100, seed: int = 0
) -> list[PowerLaw]:
    """Fits to bootstrap samples: at each x, the seeds' values are resampled with replacement.

    Args:
        values: x -> the y of each seed.
        law: the fit to all values, used as the initial guess.
        draws: number of samples.
        seed: seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    fits = []
    for _ in range(draws):
        resampled = {x: rng.choice(np.asarray(y, np.float64), len(y)) for x, y in values.items()}
        fits.append(fit([x for x, y in resampled.items() for _ in y], np.concatenate(list(resampled.values())), law))
    return fits


def interval(fits: Sequence[PowerLaw], x: ArrayLike, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds at each x that contain the share `level` of the fits."""
    curves = np.stack([law(x) for law in fits])
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
