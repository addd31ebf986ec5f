"""The racing rule against dense linear algebra, Monte Carlo and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adapt_ray.search import racing
from adapt_ray.search.racing import BoolArray, EmpiricalBayes, FloatArray, Variances

RULE = EmpiricalBayes()


def matrix(runs: list[int], seeds: int, rng: np.random.Generator, sd: float = 0.02) -> FloatArray:
    """Return scores [configurations, seeds] of which configuration i has run ``runs[i]`` seeds."""
    scores = 0.7 + rng.normal(0, sd, (len(runs), 1)) + rng.normal(0, 0.015, (len(runs), seeds))
    for row, count in zip(scores, runs, strict=True):
        row[count:] = np.nan
    return scores


def unfinished(scores: FloatArray) -> BoolArray:
    return np.asarray(np.isnan(scores).any(axis=-1))


def dense(scores: FloatArray, tau2: float, beta2: float, sigma2: float) -> tuple[FloatArray, ...]:
    """Return mean and covariance of the rows' means over all seeds, all scores as one normal."""
    rows, seeds = scores.shape
    i, j = (each.ravel() for each in np.indices(scores.shape))
    y, seen = scores.ravel(), ~np.isnan(scores.ravel())
    prior = tau2 * (i[:, None] == i) + beta2 * (j[:, None] == j) + sigma2 * np.eye(y.size)
    inverse = np.linalg.inv(prior[np.ix_(seen, seen)])
    cross = prior[:, seen] @ inverse
    one = np.ones(seen.sum())
    information = one @ inverse @ one
    m = one @ inverse @ y[seen] / information  # generalised least squares
    mean = np.where(seen, y, m + cross @ (np.where(seen, y, 0)[seen] - m))
    lack = 1 - cross @ one
    covariance = prior - cross @ prior[seen] + np.outer(lack, lack) / information
    average = (np.arange(rows)[:, None] == i) / seeds
    return average @ mean, average @ covariance @ average.T


@pytest.mark.parametrize("runs", [[2, 2, 2], [6, 2, 1, 3], [6, 6, 1], [1, 6], [5, 0, 2]])
def test_the_prediction_is_the_conditional_normal(runs: list[int]) -> None:
    scores = matrix(runs, 6, np.random.default_rng(3))
    tau2, beta2, sigma2 = 3e-4, 1.5e-4, 2e-4
    seen = ~np.isnan(scores)
    found = Variances(*map(np.array, (tau2, beta2, sigma2, 9.0, 9)))
    future = racing._predict(scores, np.where(seen, scores, 0.0), seen, found)
    mean, covariance = dense(scores, tau2, beta2, sigma2)
    assert future.mean - future.mean[0] == pytest.approx(mean - mean[0], abs=1e-12)
    shared = future.gradient @ future.covariance @ future.gradient.T
    assert shared + np.diag(future.variance) == pytest.approx(covariance, abs=1e-14)


def test_chances_are_those_of_simulated_futures() -> None:
    rng = np.random.default_rng(5)
    mean, sd = np.array([0.70, 0.71, 0.69, 0.705, 0.65]), np.array([0.01, 0.012, 0.01, 0.01, 0.02])
    finished = np.array([False, False, False, True, False])
    runs = np.array([True, True, True, False, False])
    drawn = np.where(finished, mean, mean + sd * rng.normal(size=(400_000, 5)))
    drawn[:, 4] = -np.inf  # dropped
    shares = np.bincount(drawn.argmax(axis=1), minlength=5) / len(drawn)
    found = racing._best(mean, sd, runs, finished)
    assert found == pytest.approx(np.where(runs, shares, 0), abs=0.003)


def test_variances_are_unbiased_in_the_model() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 0.02, (4000, 12, 1)), rng.normal(0, 0.012, (4000, 1, 6))
    scores = a + b + rng.normal(0, 0.01, (4000, 12, 6))
    scores[:, 4:, 3:] = np.nan
    seen = ~np.isnan(scores)
    found = racing._variances(np.where(seen, scores, 0), seen, 0.0, 0.0)
    assert found.residual.mean() == pytest.approx(0.01**2, rel=0.02)
    assert found.seed.mean() == pytest.approx(0.012**2, rel=0.05)
    assert found.configuration.mean() == pytest.approx(0.02**2, rel=0.05)


def test_one_rival_is_dropped_by_students_t() -> None:
    rng = np.random.default_rng(2)
    mean, sd = np.array([0.7, 0.7 - 1e-3 * rng.integers(10, 60)]), 0.01
    widening = RULE._widening(np.array(5.0))
    chance = racing._best(
        mean, np.full(2, sd * widening), np.array([0, 1], bool), np.array([1, 0]) > 0
    )
    dropped_by_t = stats.t.sf((mean[0] - mean[1]) / sd, 5) < RULE.threshold
    assert (chance[1] < RULE.threshold) == dropped_by_t


counts = st.lists(st.integers(0, 5), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(0, 2**32 - 1), st.booleans())
def test_properties_of_decisions(runs: list[int], seed: int, collapsed: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = matrix(runs, 5, rng, sd=0.05)
    if collapsed:
        scores -= 0.3 * (rng.random(scores.shape) < 0.1)
    racers = unfinished(scores) & (rng.random(len(runs)) < 0.8)
    drops = RULE.drops(scores, racers)
    chances = RULE.chances(scores, racers)
    assert not (drops & ~racers).any()
    assert np.isfinite(chances).all()
    assert chances[drops].sum() < 1
    standing = racers | ~unfinished(scores)
    assert (standing & ~drops).any() or not standing.any()  # somebody always stays
    assert not drops[np.isnan(scores).all(axis=-1)].any()
    order = rng.permutation(len(runs))
    moved = RULE.chances(scores[order], racers[order])
    assert moved == pytest.approx(chances[order], abs=1e-9)
    assert RULE.chances(scores + 0.1, racers) == pytest.approx(chances, abs=1e-6)
    beside = matrix(runs, 5, rng)
    both = RULE.chances(np.stack([scores, beside]), np.stack([racers, unfinished(beside)]))
    assert both[0] == pytest.approx(chances, abs=1e-9)


@pytest.mark.parametrize("configurations", [2, 30, 300])
@pytest.mark.parametrize("seen", [1, 2, 9])
def test_equals_are_kept(configurations: int, seen: int) -> None:
    scores = np.full((configurations, 10), np.nan)
    scores[:, :seen] = 0.7
    assert not RULE.drops(scores, unfinished(scores)).any()
    scores[:, :seen] += np.random.default_rng(1).normal(0, 0.01, seen)  # of the seed alone
    assert not RULE.drops(scores, unfinished(scores)).any()


@pytest.mark.parametrize("configurations", [1, 2])
@pytest.mark.parametrize("seeds", [1, 2, 50])
def test_the_smallest_races(configurations: int, seeds: int) -> None:
    scores = np.full((configurations, seeds), np.nan)
    racers = np.ones(configurations, bool)
    assert not RULE.drops(scores, racers).any()
    scores[0] = np.linspace(0.70, 0.71, seeds)
    assert not RULE.drops(scores, unfinished(scores)).any()


def test_the_first_seed_drops_nobody_unless_earlier_ones_tell_the_noise() -> None:
    rng = np.random.default_rng(4)
    scores = matrix([1, 1, 1, 1, 1, 1], 10, rng)
    scores[0, 0] = 0.2
    assert not RULE.drops(scores, unfinished(scores)).any()
    earlier = matrix([10, 10, 10], 10, rng, sd=0.005)
    scores[0, 0] = 0.5
    drops = RULE.drops(np.concatenate([earlier, scores]), unfinished(np.vstack([earlier, scores])))
    assert drops[3]


def test_what_is_hopeless_goes_and_what_is_near_stays() -> None:
    rng = np.random.default_rng(6)
    scores = matrix([3] * 8, 10, rng, sd=0.0)
    scores[5] -= 0.12
    drops = RULE.drops(scores, unfinished(scores))
    assert drops[5]
    assert drops.sum() == 1


def test_a_collapsed_run_elsewhere_changes_little() -> None:
    rng = np.random.default_rng(7)
    scores = matrix([4] * 8, 10, rng, sd=0.0)
    scores[5] -= 0.08
    before = RULE.drops(scores, unfinished(scores))
    assert before[5]
    scores[2, 1] = 0.35  # would need 0.04 more than the others on each seed left
    after = RULE.drops(scores, unfinished(scores))
    assert after[2]
    assert after[5]
    assert not (after & ~before)[np.arange(8) != 2].any()
    unprotected = EmpiricalBayes(clip=1e6).chances(scores, unfinished(scores))[5]
    assert RULE.chances(scores, unfinished(scores))[5] < unprotected / 100


def test_one_collapse_in_two_seeds_is_judged_by_its_known_loss() -> None:
    scores = matrix([2] * 6, 10, np.random.default_rng(9), sd=0.0)
    plain = RULE.chances(scores, unfinished(scores))
    scores[3, 1] -= 0.3
    found = RULE.chances(scores, unfinished(scores))
    assert found[3] < plain[3]
    others = np.arange(6) != 3
    assert not RULE.drops(scores, unfinished(scores))[others].any()


def test_a_decision_repeats() -> None:
    scores = matrix([5] * 9, 10, np.random.default_rng(10))
    first = RULE.drops(scores, unfinished(scores))
    assert (RULE.drops(scores.copy(), unfinished(scores)) == first).all()
    assert first.any()
