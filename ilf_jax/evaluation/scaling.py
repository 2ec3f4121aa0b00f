"""Scaling fits: a power law with offset, y = a x^-b + c, robustly and with intervals from the spread over seeds."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.optimize

MIN_POINTS = 4
_HUBER_DELTA = 1e-3  # in log y, as Hoffmann et al. 2022 (appendix D.2) have it


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = a x^-b + c, with a > 0 and c >= 0."""

    a: float
    b: float
    c: float

    def __call__(self, x: Sequence[float]) -> np.ndarray:
        """y at each x."""
        return self.a * np.asarray(x, np.float64) ** -self.b + self.c


def fit(x: Sequence[float], y: Sequence[float], near: PowerLaw | None = None) -> PowerLaw:
    """The power law with the least Huber loss between logarithms (Hoffmann et al. 2022, eq. 3).

    Args:
        near: where to start from; when None, from many places, and the best is taken.

    Raises:
        ValueError: fewer than four different x, or a value that is not finite and above 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for name, values in (("x", x), ("y", y)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"a power law needs numbers above 0; {name} has {values.tolist()}")
    different = len(set(x.tolist()))
    if different < MIN_POINTS:
        raise ValueError(f"a power law with offset has three unknowns and takes {MIN_POINTS} different x; there are "
                         f"{different}")
    log_x, log_y = np.log(x), np.log(y)

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.logaddexp(p[0] - p[1] * log_x, p[2]) - log_y

    found = [
        scipy.optimize.least_squares(residuals, np.log([law.a, np.exp(law.b), law.c]), loss="huber",
                                     f_scale=_HUBER_DELTA, x_scale="jac", max_nfev=500)
        for law in ([near] if near else _starts(x, y))
    ]
    log_a, b, log_c = min(found, key=lambda one: one.cost).x
    return PowerLaw(float(np.exp(log_a)), float(b), float(np.exp(log_c)))


def _starts(x: np.ndarray, y: np.ndarray) -> list[PowerLaw]:
    """Laws of different steepness and offset through the middle of the data."""
    laws = []
    for b, share in itertools.product((0.1, 0.3, 0.6, 1.0, 1.5), (0.01, 0.3, 0.6, 0.9)):
        c = share * y.min()
        laws.append(PowerLaw(float(np.median((y - c) * x**b)), b, float(c)))
    return laws


def bootstrap(
    values: Mapping[float, Sequence[float]], law: PowerLaw, *, draws: int = 100, seed: int = 0
) -> list[PowerLaw]:
    """Fits to data drawn again, with replacement, from the seeds at each x.

    Args:
        values: x -> y of each seed.
        law: the fit to all of them, where these begin.
    """
    rng = np.random.default_rng(seed)
    fits = []
    for _ in range(draws):
        drawn = {x: rng.choice(np.asarray(y, np.float64), len(y)) for x, y in values.items()}
        fits.append(fit([x for x, y in drawn.items() for _ in y], np.concatenate(list(drawn.values())), law))
    return fits


def interval(fits: Sequence[PowerLaw], x: Sequence[float], level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound at each x that `level` of the fits lie between."""
    curves = np.stack([one(x) for one in fits])
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
