"""Where the spread of scores comes from: crossed random effects, one run a cell.

Runs that cross several sources of chance (initialisation, data order, split, ...) give a complete
table of scores with one axis a source. Its mean squares, one for each set S of sources, estimate
variances by the method of moments (Searle, Casella and McCulloch 1992, chapter 4): the expected
mean square of S is the sum over all T that contain S of var(T) times the levels of the sources
outside T, which a Moebius sum turns round. What all sources share cannot be told from noise within
a cell, since a cell holds one run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from adapt_ray.report.statistics import CONFIDENCE

Floats = npt.NDArray[np.float64]
Sources = tuple[str, ...]

_DRAWS = 20_000


@dataclass(frozen=True)
class Contribution:
    """The variance that one source, or several together, add to a run's score."""

    sources: Sources  # more than one: their interaction; all of them: with what is left
    variance: float  # by the method of moments; negative where the data show none
    low: float  # 95%, generalised interval
    high: float
    freedom: int  # degrees of freedom of the mean square

    @property
    def shown(self) -> float:
        """The variance, zero where its estimate is negative."""
        return max(self.variance, 0.0)


def contributions(scores: Floats, sources: Sequence[str]) -> list[Contribution]:
    """Split the variance of a table of scores into those of its sources and their interactions.

    ``scores`` has one axis a source, at least two levels each. The intervals are generalised ones
    for normal effects (Weerahandi 1993): each mean square is divided by draws of chi-square over
    its degrees of freedom. Negative ends are cut at zero. Raises ValueError for other tables.
    """
    if scores.ndim != len(sources) or min(scores.shape, default=0) < 2:
        raise ValueError(f"a table of {scores.shape} scores does not cross {len(sources)} sources")
    squares = {found: _squares(scores, found) for found in _subsets(range(scores.ndim))}
    rng = np.random.default_rng(0)
    drawn = {
        found: total / stats.chi2(freedom).rvs(_DRAWS, random_state=rng)
        for found, (total, freedom) in squares.items()
    }
    means = {found: np.array([total / n]) for found, (total, n) in squares.items()}
    estimates = []
    for found, (_, freedom) in squares.items():
        (variance,) = _component(means, found, scores.shape)
        ends = np.quantile(
            _component(drawn, found, scores.shape), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        )
        low, high = np.maximum(ends, 0.0)
        names = tuple(sources[i] for i in found)
        estimates.append(Contribution(names, float(variance), float(low), float(high), freedom))
    return estimates


def _subsets(axes: range) -> Iterator[tuple[int, ...]]:
    """Yield all non-empty sets of axes, the small ones first."""
    for size in range(1, len(axes) + 1):
        yield from combinations(axes, size)


def _squares(scores: Floats, found: tuple[int, ...]) -> tuple[float, int]:
    """Return the sum of squares of a set of axes and its degrees of freedom."""
    effect = scores
    for axis in range(scores.ndim):
        mean = effect.mean(axis, keepdims=True)
        effect = effect - mean if axis in found else mean
    outside = scores.size / np.prod([scores.shape[i] for i in found])
    freedom = int(np.prod([scores.shape[i] - 1 for i in found]))
    return float((effect**2).sum() * outside), freedom


def _component(
    means: Mapping[tuple[int, ...], Floats], found: tuple[int, ...], shape: tuple[int, ...]
) -> Floats:
    """Return the variances [k] of a set of axes from the mean squares [k] of all sets."""
    outside = math.prod(n for axis, n in enumerate(shape) if axis not in found)
    above = [s for s in means if set(found) <= set(s)]
    signed = [(-1.0) ** (len(s) - len(found)) * means[s] for s in above]
    return np.asarray(np.sum(signed, axis=0) / outside)
