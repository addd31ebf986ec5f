"""The Pareto front against its definition, pair by pair."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.report.pareto import pareto_front

# Few different values, so that ties and equal points are common.
VALUES = st.integers(-3, 3).map(float)
POINTS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.tuples(*[VALUES] * n), max_size=12)  # score first, then costs
)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    no_worse = a[0] >= b[0] and all(x <= y for x, y in zip(a[1:], b[1:], strict=True))
    return no_worse and a != b


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    expected = [
        number
        for number, point in enumerate(points)
        if not any(dominates(other, point) for other in points)
    ]
    assert pareto_front(points) == expected


@given(POINTS)
def test_units_do_not_matter(points: list[tuple[float, ...]]) -> None:
    scaled = [[math.exp(value) * (5 if n else 0.1) for n, value in enumerate(p)] for p in points]
    assert pareto_front(scaled) == pareto_front(points)


def test_examples_by_hand() -> None:
    assert pareto_front([]) == []
    assert pareto_front(np.array([[0.8, 2.0], [0.7, 1.0], [0.7, 2.0], [0.8, 2.0]])) == [0, 1, 3]


def test_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([[0.8, math.nan]])
