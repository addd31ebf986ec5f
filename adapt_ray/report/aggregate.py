"""What several tasks show together (Agarwal et al. 2021): every task has the same weight.

Scores are fractions, one list of runs a task; resamples draw runs within a task (stratified), so
that intervals speak of other seeds on these tasks, not of other tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from adapt_ray.report import bootstrap
from adapt_ray.report.bootstrap import Interval
from adapt_ray.report.statistics import CONFIDENCE, Values

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Share of the runs that score above each threshold, with pointwise 95% intervals."""

    thresholds: Floats  # [T], ascending
    share: Floats  # [T]
    low: Floats  # [T]
    high: Floats  # [T]


def interquartile_mean(samples: Sequence[Values]) -> Interval | None:
    """Return the mean of the middle half of all runs of all tasks, with its percentile interval.

    Tasks with fewer runs than others count less. None without runs; without an interval of its own
    (low and high equal the estimate) where no task has two.
    """
    arrays = _arrays(samples)
    if not arrays:
        return None
    estimate = float(stats.trim_mean(np.concatenate(arrays), 0.25))
    return bootstrap.percentile(estimate, bootstrap.stratified(arrays, _middle))


def _middle(drawn: list[Floats]) -> Floats:
    """Return the interquartile means [B] of samples [B, n] put together."""
    middle: Floats = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    return middle


def performance_profile(samples: Sequence[Values], thresholds: Values) -> Profile | None:
    """Return the share of the runs above every threshold, averaged over tasks; None of no runs."""
    arrays, at = _arrays(samples), np.asarray(thresholds, np.float64)
    if not arrays:
        return None
    share = np.mean([(x[:, None] > at).mean(0) for x in arrays], axis=0)
    replicates = np.mean([_shares_above(x, at) for x in arrays], axis=0)
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Profile(at, share, low, high)


def _shares_above(x: Floats, thresholds: Floats) -> Floats:
    """Return shares [B, T] of resamples of x [n] above thresholds.

    How many of n drawn values exceed a threshold follows from how often each value is drawn.
    """
    rng = np.random.default_rng(0)
    weights = rng.multinomial(x.size, np.full(x.size, 1 / x.size), size=bootstrap.RESAMPLES)
    shares: Floats = weights @ (x[:, None] > thresholds) / x.size
    return shares


def thresholds_of(samples: Sequence[Values], points: int = 101) -> Floats:
    """Return evenly spaced thresholds over the range of all scores."""
    every = np.concatenate(_arrays(samples))
    return np.linspace(every.min() - 1e-9, every.max(), points)


def improvement(pairs: Sequence[tuple[Values, Values]]) -> Interval | None:
    """Return how often a run of a beats one of b on the same task, averaged over tasks.

    Ties count half. With the percentile interval of both sides resampled; None where no task has
    runs of both.
    """
    usable = [found for a, b in pairs if len(found := _arrays([a, b])) == 2]
    if not usable:
        return None
    estimate = float(np.mean([_beats(a[None], b[None])[0] for a, b in usable]))
    flat = [x for pair in usable for x in pair]
    return bootstrap.percentile(estimate, bootstrap.stratified(flat, _mean_beats))


def _mean_beats(drawn: list[Floats]) -> Floats:
    mean: Floats = np.mean(
        [_beats(a, b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)], axis=0
    )
    return mean


def _beats(a: Floats, b: Floats) -> Floats:
    """Return the share [B] of pairs of a [B, n] and b [B, m] in which a is larger."""
    x, y = a[:, :, None], b[:, None, :]
    share: Floats = ((x > y) + 0.5 * (x == y)).mean((1, 2))
    return share


def rate(count: int, n: int) -> Interval | None:
    """Return a share of n runs with its Wilson interval (1927); None of no runs."""
    if n == 0:
        return None
    found = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count / n, float(found.low), float(found.high))


def by_task(scores: Mapping[str, Mapping[str, Values]]) -> dict[str, list[Values]]:
    """Return the scores of the methods that every task has, one entry a task."""
    shared = [set(methods) for methods in scores.values()]
    names = [name for name in next(iter(scores.values()), {}) if all(name in one for one in shared)]
    return {name: [methods[name] for methods in scores.values()] for name in names}


def _arrays(samples: Sequence[Values]) -> list[Floats]:
    arrays = [np.asarray(x, np.float64) for x in samples]
    return [x for x in arrays if x.size]
