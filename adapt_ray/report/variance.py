"""What a handful of seeds can say about a spread: ratios of variances, tests, power.

The F interval and the power statements are exact for scores that are normal over seeds, and only
for those; :func:`ratio_interval` is the one that keeps its promise for other scores too (see the
coverage in docs/BENCHMARKS.md), and the report speaks by it. What the data do not define (too few
seeds, no spread) is None.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from adapt_ray.report import bootstrap
from adapt_ray.report.statistics import CONFIDENCE, Values, pairs, varies

Floats = npt.NDArray[np.float64]

HALVING = 0.5  # the variance ratio whose detection the power statements are about
WANTED_POWER = 0.8
LEAST_SEEDS = 5  # below, resamples of so few seeds say nothing of a spread
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class VarianceRatio:
    """Var(a) / Var(b) with its 95% interval; None where it is undefined."""

    n_a: int
    n_b: int
    ratio: float | None
    low: float | None
    high: float | None
    p: float | None = None  # that both are equal, two-sided; not for the F interval

    @property
    def ends(self) -> str:
        """The interval for readers; beyond a hundredfold only that it is."""
        if self.low is None or self.high is None:
            return "-"
        low = "less than 0.01" if self.low < 0.01 else f"{self.low:.2g}"
        return f"{low} to {'more than 100' if self.high > 100 else f'{self.high:.2g}'}"


def sample_variance(values: Values) -> float | None:
    """Return the unbiased variance; None below two values."""
    x = np.asarray(values, np.float64)
    return float(x.var(ddof=1)) if x.size > 1 else None


def variance_interval(values: Values) -> tuple[float, float] | None:
    """Return the 95% interval of the variance, of scores that are normal over seeds.

    (n - 1) s² over the variance is chi-square with n - 1 degrees of freedom. None below two values
    or where they do not vary.
    """
    x = np.asarray(values, np.float64)
    if x.size < 2 or not varies(x):
        return None
    squares = float(x.var(ddof=1)) * (x.size - 1)
    tails = [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2]
    low, high = squares / stats.chi2.ppf(tails, x.size - 1)
    return float(low), float(high)


def pitman_morgan(a: Values, b: Values) -> float | None:
    """Return the p value that two *paired* samples have equal variance.

    Sum and difference of the pairs are uncorrelated exactly when the variances are equal (Pitman
    1939, Morgan 1939). None below three pairs or where sum or difference do not vary.
    """
    x, y = pairs(a, b)
    total, difference = x + y, x - y
    if total.size < 3 or not varies(total) or not varies(difference):
        return None
    return float(stats.pearsonr(total, difference).pvalue)


def brown_forsythe(a: Values, b: Values) -> float | None:
    """Return the p value that two independent samples have equal spread about their medians."""
    if not _comparable(a, b):
        return None
    return float(stats.levene(np.asarray(a), np.asarray(b), center="median").pvalue)


def bartlett(a: Values, b: Values) -> float | None:
    """Return Bartlett's p value that two independent samples of normal scores vary equally."""
    if not _comparable(a, b):
        return None
    return float(stats.bartlett(np.asarray(a), np.asarray(b)).pvalue)


def variance_ratio(a: Values, b: Values) -> VarianceRatio:
    """Return Var(a) / Var(b) with its 95% F interval, the samples taken as independent."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(x.size, y.size) < 2 or not (varies(x) and varies(y)):
        return VarianceRatio(x.size, y.size, None, None, None)
    ratio = float(x.var(ddof=1) / y.var(ddof=1))
    lower, upper = _f_quantiles(x.size, y.size)
    return VarianceRatio(x.size, y.size, ratio, ratio / upper, ratio / lower)


def ratio_interval(a: Values, b: Values, *, paired: bool) -> VarianceRatio:
    """Return Var(a) / Var(b) with the symmetric studentised bootstrap interval of its logarithm.

    ``paired``: ``a[i]`` and ``b[i]`` come from the same seed and are drawn together. Studentised by
    the jackknife (Efron and Tibshirani 1993, chapter 12; Hall 1988 for the symmetric form). No
    interval below :data:`LEAST_SEEDS` seeds of each.
    """
    x, y = pairs(a, b) if paired else (np.asarray(a, np.float64), np.asarray(b, np.float64))
    if min(x.size, y.size) < 2 or not (varies(x) and varies(y)):
        return VarianceRatio(x.size, y.size, None, None, None)
    ratio = float(x.var(ddof=1) / y.var(ddof=1))
    return _bootstrapped(x.size, y.size, ratio, [(x, y)], paired=paired)


def pooled_ratio(samples: Sequence[tuple[Values, Values]], *, paired: bool) -> VarianceRatio | None:
    """Return the geometric mean over tasks of Var(a) / Var(b), with its interval and test.

    ``samples`` holds (a, b) of each task; seeds are drawn within a task, and every task has the
    same weight. Tasks whose ratio is undefined or has fewer than :data:`LEAST_SEEDS` seeds are left
    out; None where fewer than two are left.
    """
    arrays = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in samples]
    usable = [
        (x, y) for x, y in arrays if min(x.size, y.size) >= LEAST_SEEDS and varies(x) and varies(y)
    ]
    if len(usable) < 2:
        return None
    logs = [np.log(x.var(ddof=1) / y.var(ddof=1)) for x, y in usable]
    n_a, n_b = (sum(pair[i].size for pair in usable) for i in (0, 1))
    return _bootstrapped(n_a, n_b, float(np.exp(np.mean(logs))), usable, paired=paired)


def _bootstrapped(
    n_a: int, n_b: int, ratio: float, samples: Sequence[tuple[Floats, Floats]], *, paired: bool
) -> VarianceRatio:
    if any(min(x.size, y.size) < LEAST_SEEDS for x, y in samples):
        return VarianceRatio(n_a, n_b, ratio, None, None)
    found = bootstrap.log_variance_ratio(samples, paired=paired)
    if found is None:
        return VarianceRatio(n_a, n_b, ratio, None, None)
    low, high = (float(np.exp(end)) for end in (found.low, found.high))
    return VarianceRatio(n_a, n_b, ratio, low, high, found.p)


def power(ratio: float, n_a: int, n_b: int, *, sides: int = 2) -> float:
    """Return the probability that the 5% F test notices a true variance ratio.

    Exact for normal scores: under a true ratio r the observed one is r times an F variable. One-
    sided, the test looks in the direction of the ratio.
    """
    f = stats.f(n_a - 1, n_b - 1)
    if sides == 2:
        lower, upper = _f_quantiles(n_a, n_b)
        return float(f.cdf(lower / ratio) + f.sf(upper / ratio))
    if ratio < 1:
        return float(f.cdf(f.ppf(1 - CONFIDENCE) / ratio))
    return float(f.sf(f.ppf(CONFIDENCE) / ratio))


@functools.cache
def seeds_needed(ratio: float = HALVING, *, sides: int = 2) -> int | None:
    """Return the seeds of each method that notice a true ratio with :data:`WANTED_POWER`.

    None where that takes more than 1,000.
    """
    low, high = 1, _MOST_SEEDS
    if power(ratio, high, high, sides=sides) < WANTED_POWER:
        return None
    while high - low > 1:  # power rises with the seeds
        middle = (low + high) // 2
        enough = power(ratio, middle, middle, sides=sides) >= WANTED_POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def variance_sentence(
    name_a: str, a: Values, name_b: str, b: Values, *, paired: bool = False
) -> str:
    """Say in plain words what the seeds show about two variances, and what they cannot show."""
    found = ratio_interval(a, b, paired=paired)
    what = f"variance ratio {name_a} / {name_b}"
    if found.ratio is None:
        if min(found.n_a, found.n_b) < 2:
            return f"{what} undefined: it needs at least two seeds of each"
        return f"{what} undefined: at least one of the two has the same score on every seed"
    kind = ""
    if found.low is None or found.high is None:
        found, kind = variance_ratio(a, b), " (F, for normal scores)"
    assert found.ratio is not None
    seeds = in_words(found.n_a)
    if found.n_a != found.n_b:
        seeds = f"{seeds} and {in_words(found.n_b)}"
    start = f"{what} {found.ratio:.2g}, 95% interval {found.ends}{kind}: {seeds}"
    assert found.low is not None
    assert found.high is not None
    if found.low <= 1 <= found.high:
        return f"{start} seeds cannot tell; {_needed(found.ratio)}; {_noticed(found)}"
    spread = "less" if found.high < 1 else "more"
    return f"{start} seeds show that {name_a} varies {spread}; {_noticed(found)}"


def _needed(ratio: float) -> str:
    """Say how many seeds would tell a ratio as large as the observed one."""
    two, one = seeds_needed(ratio), seeds_needed(ratio, sides=1)
    if two is None or one is None:
        return f"a ratio so close to 1 would take more than {_MOST_SEEDS:,} seeds of each"
    return (
        f"about {two} would be needed (of each, for power {WANTED_POWER} at such a true ratio; "
        f"{one} one-sided)"
    )


def _noticed(found: VarianceRatio) -> str:
    chance, one = (power(HALVING, found.n_a, found.n_b, sides=sides) for sides in (2, 1))
    return (
        f"a true halving would be noticed with probability {chance:.2f} (two-sided F test at 5%, "
        f"normal scores; {one:.2f} one-sided)"
    )


_WORDS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


def in_words(n: int) -> str:
    """Return a number as a word up to twelve."""
    return _WORDS[n] if n < len(_WORDS) else str(n)


def _comparable(a: Values, b: Values) -> bool:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return min(x.size, y.size) >= 3 and varies(x) and varies(y)


def _f_quantiles(n_a: int, n_b: int) -> tuple[float, float]:
    lower, upper = stats.f.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n_a - 1, n_b - 1)
    return float(lower), float(upper)
