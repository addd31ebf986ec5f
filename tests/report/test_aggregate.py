"""Aggregates over tasks against scipy, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adapt_ray.report import aggregate, statistics

RNG = np.random.default_rng(3)
TASKS = [RNG.normal(mean, 0.02, 10) for mean in (0.6, 0.8, 0.7)]


def test_one_task_has_the_interval_of_scipys_bootstrap() -> None:
    found = aggregate.interquartile_mean(TASKS[:1])
    assert found is not None
    expected = stats.bootstrap(
        (TASKS[0],),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.estimate == statistics.interquartile_mean(TASKS[0])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_strata_keep_the_difference_between_tasks_out_of_the_interval() -> None:
    apart = [RNG.normal(mean, 0.01, 10) for mean in (0.1, 0.5, 0.9)]
    found = aggregate.interquartile_mean(apart)
    pooled = aggregate.interquartile_mean([np.concatenate(apart)])
    assert found is not None
    assert pooled is not None
    assert found.estimate == pooled.estimate
    assert found.high - found.low < (pooled.high - pooled.low) / 3


def test_no_runs_have_no_aggregates() -> None:
    assert aggregate.interquartile_mean([]) is None
    assert aggregate.performance_profile([[], []], [0.5]) is None
    assert aggregate.improvement([([], [1.0])]) is None
    assert aggregate.rate(0, 0) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=5), min_size=1))
def test_a_profile_is_the_mean_over_tasks_of_one_minus_the_distribution(
    samples: list[list[float]],
) -> None:
    found = aggregate.performance_profile(samples, [0.05, 0.1, 0.15, 0.25, 0.3])
    assert found is not None
    for threshold, share in zip(found.thresholds, found.share, strict=True):
        above = [sum(x > threshold for x in task) / len(task) for task in samples]
        assert share == pytest.approx(sum(above) / len(above))
    assert (np.diff(found.share) <= 1e-12).all()
    assert (found.low <= found.share + 1e-12).all()
    assert (found.share <= found.high + 1e-12).all()


def test_the_spread_of_a_profile_is_binomial() -> None:
    x = np.array([0.0] * 6 + [1.0] * 14)
    found = aggregate.performance_profile([x], [0.5])
    assert found is not None
    low, high = stats.binom(20, 0.7).ppf([0.025, 0.975]) / 20
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), abs=0.051)


def test_thresholds_span_all_scores() -> None:
    at = aggregate.thresholds_of([[0.4, 0.5], [0.9]])
    found = aggregate.performance_profile([[0.4, 0.5], [0.9]], at)
    assert found is not None
    assert (found.share[0], found.share[-1]) == (1, 0)


def test_improvement_is_mann_whitney_averaged_over_tasks() -> None:
    pairs = [(TASKS[0], TASKS[0][:4] + 0.01), (TASKS[1], TASKS[1] - 0.02)]
    found = aggregate.improvement(pairs)
    assert found is not None
    each = [stats.mannwhitneyu(a, b).statistic / (a.size * b.size) for a, b in pairs]
    assert found.estimate == pytest.approx(np.mean(each))
    assert found.low < found.estimate < found.high
    assert aggregate.improvement([*pairs, ([], [1.0])]) == found


def test_the_interval_of_improvement_covers() -> None:
    rng = np.random.default_rng(8)
    truth = stats.norm.cdf(0.5 / 2**0.5)
    covered = []
    for _ in range(120):
        pairs = [(rng.normal(0.5, 1, 10), rng.normal(0, 1, 10)) for _ in range(2)]
        found = aggregate.improvement(pairs)
        assert found is not None
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) > 0.87


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (1, 200)])
def test_wilson_by_its_formula(count: int, n: int) -> None:
    found = aggregate.rate(count, n)
    z = stats.norm.ppf(0.975)
    p = count / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found is not None
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_only_methods_of_every_task_are_aggregated() -> None:
    found = aggregate.by_task({"x": {"a": [1.0], "b": [2.0]}, "y": {"b": [3.0], "c": [4.0]}})
    assert found == {"b": [[2.0], [3.0]]}
