"""Bootstrap intervals against loops, scipy and what they promise."""

import numpy as np
import pytest
from scipy import stats

from adapt_ray.report import bootstrap

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(2, 3, 10))


@pytest.mark.parametrize("paired", [True, False])
def test_the_jackknife_is_a_loop_that_leaves_out_one(paired: bool) -> None:
    found = bootstrap.jackknife_error(X, Y, paired=paired)
    for x, y, error in zip(X, Y, found, strict=True):
        without_x, without_y = (
            np.array([np.log(np.delete(v, i).var(ddof=1)) for i in range(10)]) for v in (x, y)
        )
        parts = [without_x - without_y] if paired else [without_x, without_y]
        expected = sum(9 / 10 * ((part - part.mean()) ** 2).sum() for part in parts) ** 0.5
        assert error == pytest.approx(expected)


def test_a_resample_of_one_value_has_no_error() -> None:
    x = np.array([[1.0] * 9 + [2.0]])
    assert not np.isfinite(bootstrap.jackknife_error(x, X[:1], paired=True)).any()


def test_the_studentised_interval_by_hand() -> None:
    replicates = np.array([1.5, 2.0, 3.5, np.inf, 2.5, 9.0])
    errors = np.array([1.0, 1.0, 0.5, 1.0, 0.5, 0.0])
    found = bootstrap.studentised(2.0, 0.8, replicates, errors)
    t = [0.5, 0.0, 3.0, 1.0]
    half = np.quantile(t, 0.95) * 0.8
    assert found is not None
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.p == pytest.approx((1 + 1) / 5)  # 3.0 alone is as far as 2 / 0.8
    assert bootstrap.studentised(2.0, 0.0, replicates, errors) is None
    assert bootstrap.studentised(2.0, 0.8, replicates, np.zeros(6)) is None


def test_a_mean_has_the_percentiles_of_its_normal_limit() -> None:
    x = np.random.default_rng(1).normal(size=400)
    found = bootstrap.percentile(
        float(x.mean()), bootstrap.stratified([x], lambda drawn: drawn[0].mean(1), 4000)
    )
    half = stats.norm.ppf(0.975) * x.std() / 20
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.008)


def test_samples_are_drawn_by_themselves() -> None:
    drawn: list[np.ndarray] = []

    def keep(samples: list[np.ndarray]) -> np.ndarray:
        drawn.extend(samples)
        return np.zeros(len(samples[0]))

    bootstrap.stratified([np.zeros(3), np.ones(5)], keep, 50)
    assert [one.shape for one in drawn] == [(50, 3), (50, 5)]
    assert (drawn[0] == 0).all()
    assert (drawn[1] == 1).all()
