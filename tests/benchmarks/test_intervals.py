"""The intervals that the benchmark compares, against scipy and what they invert."""

import numpy as np
import pytest
from scipy import stats

from adapt_ray.report.variance import pitman_morgan
from intervals import SHAPES, _influence, bca, draw, pitman_morgan_half_width

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(2, 12))


def test_bca_is_scipys() -> None:
    expected = stats.bootstrap(
        (X,), np.median, method="BCa", n_resamples=9999, rng=np.random.default_rng(1)
    )
    left = np.array([np.median(np.delete(X, i)) for i in range(len(X))])
    found = bca(float(np.median(X)), expected.bootstrap_distribution, left.mean() - left)
    ends = expected.confidence_interval
    # scipy counts half of the replicates that equal the estimate, which a median often does.
    assert found == pytest.approx((ends.low, ends.high), abs=0.25)


def test_bca_of_a_log_variance_ratio_is_scipys() -> None:
    def log_ratio(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.log(x.var(axis=axis, ddof=1) / y.var(axis=axis, ddof=1)))

    expected = stats.bootstrap(
        (X, Y), log_ratio, method="BCa", n_resamples=9999, rng=np.random.default_rng(1)
    )
    found = bca(
        float(log_ratio(X, Y, -1)),
        expected.bootstrap_distribution,
        _influence(X, Y, paired=False),
    )
    ends = expected.confidence_interval
    assert found == pytest.approx((ends.low, ends.high), abs=0.02)


def test_the_ends_of_the_inverted_test_are_just_rejected() -> None:
    y = 0.5 * X + Y
    half = pitman_morgan_half_width(X, y)
    ratio = np.log(X.var(ddof=1) / y.var(ddof=1))
    for end in (ratio - half, ratio + half):
        assert pitman_morgan(X / np.exp(end / 2), y) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_drawn_scores_vary_equally_and_pairs_are_correlated(shape: str) -> None:
    x, y = draw(shape, 40_000, np.random.default_rng(1), paired=True)
    assert x.var() / y.var() == pytest.approx(1, rel=0.1)
    assert stats.spearmanr(x, y).statistic == pytest.approx(6 / np.pi * np.arcsin(0.25), abs=0.02)
