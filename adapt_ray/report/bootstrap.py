"""Bootstrap intervals, vectorised over resamples and repeatable: each call has a seed of its own.

Resamples are numbers of draws, not statistics of the machine: the same values always give the same
interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapt_ray.report.statistics import CONFIDENCE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1999
_ROUNDING = 1e-12  # most that rounding leaves of a variance of standardised values
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval."""

    estimate: float
    low: float
    high: float
    p: float | None = None  # that the truth is zero, two-sided, where it was tested


def percentile(estimate: float, replicates: Floats) -> Interval:
    """Return the interval between the outer quantiles of the replicates [B]."""
    low, high = np.quantile(replicates, _TAILS)
    return Interval(estimate, float(low), float(high))


def studentised(
    estimate: float, error: float, replicates: Floats, errors: Floats
) -> Interval | None:
    """Return the symmetric studentised interval (Hall 1988) and the test that it inverts.

    ``error`` is the estimate's standard error and ``errors`` [B] those of the replicates [B];
    replicates without an error of their own (resamples of one value) are left out. None where none
    is left or the estimate has no error.
    """
    defined = np.isfinite(replicates) & np.isfinite(errors) & (errors > 1e-8)
    if not error > 1e-8 or not defined.any():
        return None
    t = np.abs((replicates[defined] - estimate) / errors[defined])
    half = float(np.quantile(t, CONFIDENCE)) * error
    p = (1 + int((t >= abs(estimate) / error).sum())) / (len(t) + 1)
    return Interval(estimate, estimate - half, estimate + half, p)


def log_variance_ratio(
    samples: Sequence[tuple[Floats, Floats]], *, paired: bool, resamples: int = RESAMPLES
) -> Interval | None:
    """Return the mean over tasks of log(Var(a) / Var(b)) with its studentised interval.

    ``samples`` holds (a [n], b [m]) of each task; paired seeds (n = m) are drawn together. The
    standard error is the jackknife's.
    """
    rng = np.random.default_rng(0)
    estimate = float(np.mean([np.log(a.var(ddof=1) / b.var(ddof=1)) for a, b in samples]))
    # Of unit variance, so that rounding errors have a known size and every log ratio is zero.
    scaled = [(_standardised(a), _standardised(b)) for a, b in samples]
    found = [_replicates(a, b, rng, resamples, paired=paired) for a, b in scaled]
    errors = np.array([[jackknife_error(a[None], b[None], paired=paired)[0] for a, b in scaled]])
    replicates = np.mean([one for one, _ in found], axis=0)
    of_replicates = np.array([error for _, error in found]).T
    error = float(_combined(errors)[0])
    return studentised(estimate, error, estimate + replicates, _combined(of_replicates))


def _standardised(x: Floats) -> Floats:
    scaled: Floats = (x - x.mean()) / x.std(ddof=1)
    return scaled


def _combined(errors: Floats) -> Floats:
    """Return the standard errors [B] of means of independent estimates; ``errors`` [B, tasks]."""
    combined: Floats = np.sqrt((errors**2).sum(1)) / errors.shape[1]
    return combined


def _replicates(
    a: Floats, b: Floats, rng: np.random.Generator, resamples: int, *, paired: bool
) -> tuple[Floats, Floats]:
    """Return log variance ratios [B] of resamples and their standard errors [B]."""
    of_a = rng.integers(a.size, size=(resamples, a.size))
    of_b = of_a if paired else rng.integers(b.size, size=(resamples, b.size))
    x, y = a[of_a], b[of_b]
    with np.errstate(invalid="ignore"):  # resamples of one value alone
        return _log_variance(x) - _log_variance(y), jackknife_error(x, y, paired=paired)


def _log_variance(x: Floats) -> Floats:
    """Return the logarithm of the unbiased variance along the last axis; -inf without any."""
    return _log(x.var(axis=-1, ddof=1))


def jackknife_error(x: Floats, y: Floats, *, paired: bool) -> Floats:
    """Return the jackknife's standard errors [B] of log(Var(x) / Var(y)); x [B, n], y [B, m].

    Paired values leave together. Not finite where a value alone makes the spread.
    """
    without_x, without_y = _left_out(x), _left_out(y)
    with np.errstate(invalid="ignore"):
        if paired:
            return np.sqrt(_jackknife_variance(without_x - without_y))
        return np.sqrt(_jackknife_variance(without_x) + _jackknife_variance(without_y))


def _left_out(x: Floats) -> Floats:
    """Return log variances [B, n] with each value of x [B, n] left out in turn."""
    n = x.shape[-1]
    squares = (x - x.mean(-1, keepdims=True)) ** 2
    left = (squares.sum(-1, keepdims=True) - squares * n / (n - 1)) / (n - 2)
    return _log(left)


def _log(variances: Floats) -> Floats:
    """Return logarithms; -inf for what rounding leaves of no variance."""
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(np.where(variances > _ROUNDING, variances, 0.0))
    return logs


def _jackknife_variance(left_out: Floats) -> Floats:
    n = left_out.shape[-1]
    centred = left_out - left_out.mean(-1, keepdims=True)
    variance: Floats = (n - 1) / n * (centred**2).sum(-1)
    return variance


def stratified(
    samples: Sequence[Floats],
    statistic: Callable[[list[Floats]], Floats],
    resamples: int = RESAMPLES,
) -> Floats:
    """Return the replicates [B] of a statistic of several samples, each resampled by itself.

    ``statistic`` takes arrays [B, n], one a sample, and returns [B].
    """
    rng = np.random.default_rng(0)
    drawn = [x[rng.integers(x.size, size=(resamples, x.size))] for x in samples]
    return statistic(drawn)
