"""Statistics against scipy's other routes, closed forms and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adapt_ray.report import statistics

RNG = np.random.default_rng(7)
A = RNG.normal(0.80, 0.010, 10)
B = 0.5 * A + RNG.normal(0.39, 0.015, 10)


def test_mean_estimate_is_the_t_interval() -> None:
    found = statistics.mean_estimate(A)
    expected = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.mean == pytest.approx(sum(A) / 10)
    assert found.sd == pytest.approx((sum((A - A.mean()) ** 2) / 9) ** 0.5)


def test_too_few_runs_and_no_spread_give_no_interval() -> None:
    assert statistics.mean_estimate([]) == statistics.Estimate(0, None, None, None, None)
    assert statistics.mean_estimate([0.5]) == statistics.Estimate(1, 0.5, None, None, None)
    assert statistics.mean_estimate([0.1] * 3) == statistics.Estimate(3, 0.1, 0.0, None, None)


def test_paired_difference_matches_the_two_sample_routines() -> None:
    found = statistics.paired_difference(A, B)
    related = stats.ttest_rel(A, B)
    interval = related.confidence_interval(0.95)
    assert (found.mean, found.t_p) == pytest.approx((A.mean() - B.mean(), related.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(A, B).pvalue)


def test_wilcoxon_of_five_agreeing_seeds_is_two_signs_in_thirty_two() -> None:
    found = statistics.paired_difference([0.9, 0.8, 0.85, 0.7, 0.95], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.wilcoxon_p == pytest.approx(2 / 2**5)
    assert found.shown


@pytest.mark.parametrize(("a", "b", "n"), [([], [], 0), ([0.8], [0.7], 1), ([1, 2], [1, 2], 2)])
def test_paired_difference_is_undefined_without_spread(
    a: list[float], b: list[float], n: int
) -> None:
    found = statistics.paired_difference(a, b)
    assert found.n == n
    assert (found.low, found.high, found.t_p, found.wilcoxon_p) == (None,) * 4
    assert not found.shown


def test_paired_samples_must_have_one_length() -> None:
    with pytest.raises(ValueError, match="3 and 1"):
        statistics.paired_difference([1, 2, 3], [1])


def test_interquartile_mean_is_the_middle_half() -> None:
    assert statistics.interquartile_mean([100, 3, 1, 2, 4, 5, -100, 6]) == (2 + 3 + 4 + 5) / 4
    assert statistics.interquartile_mean([]) is None


def test_probability_of_improvement_is_mann_whitney() -> None:
    a, b = [1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]
    expected = stats.mannwhitneyu(a, b).statistic / 12
    assert statistics.probability_of_improvement(a, b) == pytest.approx(expected)
    assert statistics.probability_of_improvement(a, []) is None


def test_holm_by_hand() -> None:
    found = statistics.holm([0.01, 0.04, None, 0.03, 0.005])
    assert found == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06), 0.02]


@given(st.lists(st.floats(0, 1), max_size=5))
def test_holm_is_the_closed_bonferroni_test(p: list[float]) -> None:
    """Adjusted p of a test: the largest Bonferroni p of any set of tests that holds it."""
    indices = range(len(p))
    sets = [s for r in range(1, len(p) + 1) for s in itertools.combinations(indices, r)]
    expected = [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in indices
    ]
    assert statistics.holm(p) == pytest.approx(expected)
