"""Racing over seeds: give up a configuration before its last seed when it will hardly win.

Every configuration of a batch runs one seed after the other. After each round a rule looks at all
scores of the contender and names the configurations to drop; what it does not drop runs all seeds.
A decision is a function of the scores alone, so a sweep that is continued decides as before.

The rule shipped here predicts. The score of configuration i with seed j is taken as

    score_ij = m + a_i + b_j + e_ij,   a ~ N(0, tau^2),  b ~ N(0, beta^2),  e ~ N(0, sigma^2)

with a random effect of the configuration, one of the seed that all configurations share, and a
rest. The variances come from the scores known so far, and with them the predictive distribution of
every configuration's mean over *all* seeds: the scores it has, and those it has yet to run
(best linear unbiased prediction; Searle, Casella and McCulloch, "Variance Components", 1992,
chapter 7). A configuration is dropped when the probability that its mean will be the highest of
all is too small.

What to expect of ten seeds (`benchmarks/racing.py`, docs/BENCHMARKS.md): on 30 simulated
configurations whose true means spread by 1 to 2 points, with 1.5 points over seeds, racing used
27 to 41% of the seed-runs. It ended within half a point of the best configuration at most 1.1
points of probability less often than all seeds of all configurations did. On 12 configurations it
needs a greater share. The configuration that all seeds would have put first was dropped in 1 to
8% of the races, mostly for one as good.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_LEAST_SD = 1e-4  # of a score; equal scores would else have no spread to measure a lead with
_REACH = 5.0  # standard deviations around the leader that the integral covers
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(32) + np.array([[1.0], [0.0]])) / 2
_MEDIAN_DIFFERENCE = 0.9539  # median of |x - y| for independent standard normal x and y


class Rule(Protocol):
    """Decides after each round of a race which configurations to give up."""

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        """Return which of the racing configurations to drop now.

        ``scores`` [..., configurations, seeds] are NaN where nothing ran; a configuration runs its
        seeds from the first one on. ``racing`` [..., configurations] marks those that are neither
        dropped nor finished. Leading dimensions are races that have nothing to do with each other.
        """
        ...


@dataclass(frozen=True)
class EmpiricalBayes:
    """Drops what will come out best over all seeds with too small a probability.

    The bound is ``threshold`` divided by the share of seeds that a configuration has left: strict
    while little is known, as in O'Brien and Fleming's group-sequential tests. It is at most half of
    an even share among those that can still win, so that equals are kept, however many there are.
    The configuration of the highest predicted mean is never dropped. Nothing is dropped before some
    configuration has run two seeds.
    """

    threshold: float = 0.006
    residual_weight: float = 4.0  # pseudo-observations that say: seeds have no common effect
    spread_weight: float = 2.0  # pseudo-observations that say: tau = sigma
    clip: float = 5.0  # standard deviations over seeds from which a score counts as an outlier

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        """Return which of the racing configurations to drop now; see `Rule.drops`."""
        left = np.isnan(scores).mean(axis=-1)
        finished = ~np.isnan(scores).any(axis=-1)
        rivals = np.sum(racing, axis=-1) + finished.any(axis=-1)
        even = 0.5 / np.maximum(rivals, 1)[..., None]
        bound = np.minimum(self.threshold / np.where(racing, left, 1.0), even)
        return np.asarray(racing & (self.chances(scores, racing) < bound))

    def chances(self, scores: FloatArray, racing: BoolArray) -> FloatArray:
        """Return the probability of the highest mean over all seeds [..., configurations].

        It is 0 for what does not race, and 1 for the leader and where nothing can be said yet.
        """
        seen = ~np.isnan(scores)
        tame = _winsorised(scores, seen, self.clip)
        variances = _variances(tame, seen, self.residual_weight, self.spread_weight)
        future = _predict(scores, tame, seen, variances)
        finished = np.asarray(seen.all(axis=-1))
        begun = seen.any(axis=-1)
        mean = np.where((racing & begun) | finished, future.mean, -np.inf)
        leader = np.argmax(mean, axis=-1)[..., None]
        sd = _sd_against(future, leader) * self._widening(variances.freedom)[..., None]
        chances = _best(future.mean, sd, racing, finished)
        untold = ~begun | (variances.contrasts == 0)[..., None]
        leads = (np.arange(scores.shape[-2]) == leader) & np.isfinite(mean)
        return np.where((racing & untold) | leads, 1.0, chances)

    def _widening(self, freedom: FloatArray) -> FloatArray:
        """Return by how much Student's quantile at the threshold exceeds the normal one."""
        level = 1 - self.threshold
        return np.asarray(special.stdtrit(freedom, level) / special.ndtri(level))


@dataclass(frozen=True)
class Variances:
    """Estimated variance components of races, each [...]."""

    configuration: FloatArray  # tau^2
    seed: FloatArray  # beta^2
    residual: FloatArray  # sigma^2
    freedom: FloatArray  # degrees of freedom behind sigma^2
    contrasts: IntArray  # independent differences between seeds that were seen


@dataclass(frozen=True)
class _Future:
    """Predictive distribution of the means over all seeds, given theta = (m, b / beta).

    A mean is ``offset + gradient @ theta`` with the independent ``variance``; theta itself is
    uncertain with ``covariance``.
    """

    mean: FloatArray  # [..., configurations], theta at its estimate
    gradient: FloatArray  # [..., configurations, 1 + seeds]
    variance: FloatArray  # [..., configurations]
    covariance: FloatArray  # [..., 1 + seeds, 1 + seeds]


def _winsorised(scores: FloatArray, seen: BoolArray, clip: float) -> FloatArray:
    """Return the scores with outliers among a configuration's seeds pulled in; 0 where unseen.

    A run that learned nothing is no news of how the other seeds will do, and would blow up every
    variance. The centre is the upper median, because runs fail downwards; the scale is the median
    difference of neighbouring seeds over the whole race.
    """
    steps = np.abs(np.diff(scores, axis=-1)).reshape(*scores.shape[:-2], -1)
    scale = _median(steps)[..., None, None] / _MEDIAN_DIFFERENCE
    centre = _median(scores, upper=True)[..., None]
    reach = clip * np.maximum(scale, _LEAST_SD)
    return np.where(seen, np.clip(scores, centre - reach, centre + reach), 0.0)


def _median(values: FloatArray, upper: bool = False) -> FloatArray:
    """Return the (upper) median along the last axis, NaN left out; 0 where nothing is known."""
    ordered = np.sort(values, axis=-1)  # NaN last
    count = np.sum(~np.isnan(values), axis=-1, keepdims=True)
    if values.shape[-1] == 0:
        return np.zeros(values.shape[:-1])
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1), -1)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, -1)
    middle = high if upper else (low + high) / 2
    return np.where(count > 0, middle, 0.0)[..., 0]


def _variances(
    tame: FloatArray, seen: BoolArray, residual_weight: float, spread_weight: float
) -> Variances:
    """Estimate the variance components by moments of Helmert contrasts.

    The contrast of seed j is the score less the mean of the configuration's earlier seeds, scaled
    to variance beta^2 + sigma^2. It is independent of those earlier scores, so that dropping by
    them biases nothing. Less what the configurations have in common in them, the contrasts add up
    to the means that tell tau^2.
    """
    before = np.maximum(np.cumsum(seen, axis=-1) - 1, 0)
    earlier = (np.cumsum(tame, axis=-1) - tame) / np.maximum(before, 1)
    held = seen & (before > 0)
    contrast = np.where(held, (tame - earlier) * np.sqrt(before / (before + 1.0)), 0.0)
    rows = held.sum(axis=-2)
    total = rows.sum(axis=-1)
    common = contrast.sum(axis=-2, keepdims=True) / np.maximum(rows, 1)[..., None, :]
    own = np.where(held, contrast - common, 0.0)
    freedom = np.maximum(rows - 1, 0).sum(axis=-1)
    both = np.sum(contrast**2, axis=(-2, -1)) / np.maximum(total, 1)
    within = np.sum(own**2, axis=(-2, -1))
    residual = (within + residual_weight * both) / (freedom + residual_weight)
    residual = np.maximum(residual, _LEAST_SD**2)
    means = tame[..., 0] + np.sum(own / np.sqrt(np.maximum(before * (before + 1), 1)), axis=-1)
    return Variances(
        configuration=_spread(means, seen.sum(axis=-1), residual, spread_weight),
        seed=np.maximum(both - residual, 0.0),
        residual=residual,
        freedom=np.clip(freedom + residual_weight, 1.0, np.maximum(total, 1.0)),
        contrasts=total,
    )


def _spread(means: FloatArray, count: IntArray, residual: FloatArray, weight: float) -> FloatArray:
    """Return tau^2: the variance of means over ``count`` seeds beyond what sigma^2 explains."""
    known = count > 0
    rows = np.maximum(known.sum(axis=-1), 1)
    middle = np.sum(means * known, axis=-1) / rows
    squares = np.sum(np.where(known, means - middle[..., None], 0.0) ** 2, axis=-1)
    noise = residual * np.sum(known / np.maximum(count, 1), axis=-1) / rows
    excess = np.maximum(squares - (rows - 1) * noise, 0.0)
    return np.asarray((excess + weight * residual) / (rows - 1 + weight))


def _predict(scores: FloatArray, tame: FloatArray, seen: BoolArray, found: Variances) -> _Future:
    """Return the predictive distribution of every configuration's mean over all seeds.

    What a configuration scored counts as it is; what it will score is predicted from the
    winsorised scores.
    """
    seeds = scores.shape[-1]
    count = seen.sum(axis=-1)
    left = seeds - count
    middle = tame.sum(axis=(-2, -1)) / np.maximum(count.sum(axis=-1), 1)
    y = np.where(seen, tame - middle[..., None, None], 0.0)
    total = y.sum(axis=-1)
    sigma2, tau2 = found.residual[..., None], found.configuration[..., None]
    pull = tau2 / (sigma2 + count * tau2)  # E[a | theta] = pull * (sum of y - design @ theta)
    scale = np.sqrt(found.seed)[..., None, None]
    design = np.concatenate([count[..., None], scale * seen], axis=-1)
    ahead = np.concatenate([left[..., None], scale * ~seen], axis=-1)
    covariance = _covariance(design, seen, pull, scale, found.residual)
    weighted = np.concatenate([total.sum(-1)[..., None], scale[..., 0] * y.sum(-2)], axis=-1)
    weighted = weighted - np.sum((pull * total)[..., None] * design, axis=-2)
    theta = covariance @ (weighted / sigma2)[..., None]
    gradient = (ahead - (left * pull)[..., None] * design) / seeds
    raw = np.sum(np.where(seen, scores - middle[..., None, None], 0.0), axis=-1)
    offset = (raw + left * pull * total) / seeds
    return _Future(
        mean=offset + (gradient @ theta)[..., 0],
        gradient=gradient,
        variance=sigma2 * (left**2 * pull + left) / seeds**2,
        covariance=covariance,
    )


def _covariance(
    design: FloatArray, seen: BoolArray, pull: FloatArray, scale: FloatArray, residual: FloatArray
) -> FloatArray:
    """Return the covariance of theta = (m, b / beta): m has a flat prior, b / beta a normal one."""
    by_seed = scale[..., 0] * seen.sum(axis=-2)
    precision = -np.swapaxes(design, -1, -2) @ (pull[..., None] * design)
    precision[..., 0, 0] += seen.sum(axis=(-2, -1))
    precision[..., 0, 1:] += by_seed
    precision[..., 1:, 0] += by_seed
    diagonal = np.arange(1, design.shape[-1])
    precision[..., diagonal, diagonal] += scale[..., 0] * by_seed
    precision /= residual[..., None, None]
    precision[..., diagonal, diagonal] += 1.0
    precision[..., 0, 0] += ~seen.any(axis=(-2, -1))  # a race without a run: anything will do
    return np.asarray(np.linalg.inv(precision), np.float64)


def _sd_against(future: _Future, leader: IntArray) -> FloatArray:
    """Return the standard deviation of every mean, with what theta adds to its lag on the leader.

    Configurations that have run the same seeds share theta's error.
    """
    step = future.gradient - np.take_along_axis(future.gradient, leader[..., None], -2)
    shared = np.sum(step @ future.covariance * step, axis=-1)
    return np.asarray(np.sqrt(np.maximum(future.variance + shared, _LEAST_SD**2 / 100)))


def _best(mean: FloatArray, sd: FloatArray, racing: BoolArray, finished: BoolArray) -> FloatArray:
    """Return the probability that a racing configuration's mean is the highest; 0 for others.

    The means of racing configurations are independent normals, those of finished ones are known:
    the integral over x of one's density at x times the probability that all others are below x.
    """
    floor = np.max(np.where(finished, mean, -np.inf), axis=-1)
    # Only the racing ones, in front: in a long search they are few.
    order = np.argsort(~racing, axis=-1, kind="stable")[..., : np.max(racing.sum(axis=-1))]
    mu, s, runs = (np.take_along_axis(each, order, -1) for each in (mean, sd, racing))
    top = np.maximum(floor, np.max(np.where(runs, mu, -np.inf), axis=-1, initial=-np.inf))
    top = np.where(np.isfinite(top), top, 0.0)
    widest = _REACH * np.max(np.where(runs, s, _LEAST_SD), axis=-1, initial=_LEAST_SD)
    low, high = np.maximum(floor, top - widest), top + widest
    x = low[..., None] + (high - low)[..., None] * _NODES
    z = (x[..., None, :] - mu[..., None]) / s[..., None]
    below = np.where(runs[..., None], special.log_ndtr(z), 0.0)
    log_density = -0.5 * z**2 - np.log(s * np.sqrt(2 * np.pi))[..., None]
    others = below.sum(axis=-2, keepdims=True) - below
    found = np.exp(log_density + others) @ _WEIGHTS * (high - low)[..., None]
    chances = np.zeros_like(mean)
    np.put_along_axis(chances, order, found, -1)
    return np.where(racing, chances, 0.0)
