"""What a handful of seeds can say about a mean and a difference (spreads: :mod:`.variance`).

Inputs are one value a seed. A result that the data do not define (one seed, no spread) is None,
never a number that looks like evidence. Intervals are at 95%, tests are two-sided, and both assume
what their names say: t intervals need means that are roughly normal over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = Sequence[float] | npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean of some runs and how far it can be trusted."""

    n: int
    mean: float | None  # None without runs
    sd: float | None  # sample standard deviation; None below two runs
    low: float | None  # t interval; None below two runs or without spread
    high: float | None


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over seeds that both ran, with its t interval and tests."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    t_p: float | None
    wilcoxon_p: float | None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean_estimate(values: Values) -> Estimate:
    """Return the mean with its 95% t interval."""
    x = np.asarray(values, np.float64)
    if x.size < 2:
        return Estimate(x.size, float(x[0]) if x.size else None, None, None, None)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    if not varies(x):
        return Estimate(x.size, float(x[0]), 0.0, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, x.size - 1)) * sd / x.size**0.5
    return Estimate(x.size, mean, sd, mean - half, mean + half)


def paired_difference(a: Values, b: Values) -> PairedDifference:
    """Compare two methods seed by seed: ``a[i]`` and ``b[i]`` come from the same seed."""
    x, y = pairs(a, b)
    differences = x - y
    estimate = mean_estimate(differences)
    if estimate.low is None:
        return PairedDifference(estimate.n, estimate.mean, None, None, None, None)
    return PairedDifference(
        estimate.n,
        estimate.mean,
        estimate.low,
        estimate.high,
        float(stats.ttest_1samp(differences, 0).pvalue),
        float(stats.wilcoxon(differences).pvalue),
    )


def interquartile_mean(values: Values) -> float | None:
    """Return the mean of the middle half: a quarter of the values is cut off at each end."""
    x = np.asarray(values, np.float64)
    return float(stats.trim_mean(x, 0.25)) if x.size else None


def probability_of_improvement(a: Values, b: Values) -> float | None:
    """Return how often a run of ``a`` beats a run of ``b``, over all pairs; ties count half."""
    x, y = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None, :]
    return float(((x > y) + 0.5 * (x == y)).mean()) if x.size and y.size else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p values in the given order; None stays None and counts as no test."""
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tests):
        largest = max(largest, min(1.0, p * (len(tests) - rank)))
        adjusted[i] = largest
    return adjusted


def pairs(a: Values, b: Values) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return two samples as arrays. Raises ValueError where they do not have one length."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"paired samples differ in size: {x.size} and {y.size}")
    return x, y


def varies(x: npt.NDArray[np.float64]) -> bool:
    """Whether values differ by more than what rounding leaves of equal ones."""
    return bool(np.ptp(x) > 1e-12 * max(1.0, float(np.abs(x).max())))
