"""Variance components against the textbook's two-way formulas, a loop and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.report.contributions import contributions


def test_two_ways_by_the_textbook() -> None:
    """Searle, Casella and McCulloch 1992: (MSA - MSE) / b, (MSB - MSE) / a, MSE."""
    y = np.random.default_rng(1).normal(size=(4, 3))
    a, b = y.shape
    rows, columns = y.mean(1), y.mean(0)
    left = y - rows[:, None] - columns + y.mean()
    mse = (left**2).sum() / ((a - 1) * (b - 1))
    found = contributions(y, ["one", "other"])
    assert [c.sources for c in found] == [("one",), ("other",), ("one", "other")]
    assert [c.freedom for c in found] == [3, 2, 6]
    expected = [(b * rows.var(ddof=1) - mse) / b, (a * columns.var(ddof=1) - mse) / a, mse]
    assert [c.variance for c in found] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_the_parts_make_up_the_expected_squares(levels: list[int], seed: int) -> None:
    """Each mean square, from a loop over cells, is the sum of the parts that hold its sources."""
    y = np.random.default_rng(seed).normal(size=levels)
    names = [str(i) for i in range(len(levels))]
    found = {c.sources: c.variance for c in contributions(y, names)}
    assert len(found) == 2 ** len(levels) - 1
    for axis, name in enumerate(names):
        others = tuple(i for i in range(len(levels)) if i != axis)
        marginal = y.mean(others) if others else y
        mean_square = y.size / levels[axis] * marginal.var(ddof=1)
        expected = sum(
            variance * np.prod([n for n, one in zip(levels, names, strict=True) if one not in held])
            for held, variance in found.items()
            if name in held
        )
        assert mean_square == pytest.approx(expected)


def test_one_source_alone_is_the_sample_variance() -> None:
    y = np.random.default_rng(2).normal(size=12)
    (found,) = contributions(y, ["seed"])
    assert found.variance == pytest.approx(y.var(ddof=1))
    assert found.freedom == 11


def test_intervals_cover_and_estimates_are_unbiased() -> None:
    rng = np.random.default_rng(3)
    true = {("a",): 4.0, ("b",): 1.0, ("a", "b"): 1.0}
    estimates, covered = [], []
    for _ in range(150):
        y = 2 * rng.normal(size=(6, 1)) + rng.normal(size=(1, 5)) + rng.normal(size=(6, 5))
        found = contributions(y, ["a", "b"])
        estimates.append([c.variance for c in found])
        covered.append([c.low <= true[c.sources] <= c.high for c in found])
    error = np.std(estimates, axis=0) / 150**0.5
    assert (np.abs(np.mean(estimates, axis=0) - list(true.values())) < 3.5 * error).all()
    assert (np.mean(covered, axis=0) > 0.89).all()


def test_a_source_without_effect_may_have_a_negative_estimate_and_shows_zero() -> None:
    y = np.array([[1.0, -1.0], [-1.0, 1.0]])
    first = contributions(y, ["a", "b"])[0]
    assert first.variance == pytest.approx(-2.0)
    assert first.shown == 0
    assert first.low == 0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2, 2)])
def test_incomplete_tables_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not cross"):
        contributions(np.zeros(shape), ["a", "b"])
