"""Schedules: exact on small cases, and never better than what is possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedule import Item, expected, growth, makespan, packed

COSTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=30)


def test_makespan_of_a_small_schedule() -> None:
    assert makespan([4, 3, 3, 2], 2) == 6
    assert makespan([4, 3, 3, 2], 1) == 12
    assert makespan([4, 3, 3, 2], 9) == 4


@given(COSTS, st.integers(1, 8))
def test_no_schedule_beats_its_bounds(costs: list[float], workers: int) -> None:
    ends = makespan(costs, workers)
    assert ends >= max(costs)
    assert ends >= sum(costs) / workers * (1 - 1e-9)
    assert ends <= sum(costs) / workers + max(costs) * (1 + 1e-9), "Graham's bound"


@given(COSTS, st.integers(1, 8))
def test_packing_keeps_everything_once(costs: list[float], bins: int) -> None:
    groups = packed(costs, bins)
    assert sorted(i for group in groups for i in group) == list(range(len(costs)))
    assert len(groups) == min(bins, len(costs))


def test_one_worker_takes_all_the_time() -> None:
    items = [Item(30, 3.0), Item(10, 1.0)]
    alone = expected(items, 0.5, 1, split=False)
    assert (alone.seconds, alone.tasks) == (4.5, 1)


def test_a_heavy_item_limits_the_speed_up_until_it_is_split() -> None:
    items = [Item(80, 8.0, (2.0, 2.0, 2.0, 2.0)), *[Item(10, 1.0)] * 2]
    assert expected(items, 0.0, 5, split=False).seconds == 8
    assert expected(items, 0.0, 5, split=True).seconds == 2
    assert expected(items, 0.25, 5, split=True).seconds == 2.25
    items[0] = Item(80, 8.0, (2.0, 2.0, 2.0, 2.0), root=0.5)
    assert expected(items, 0.25, 5, split=True).seconds == 2.75, "every part pays the root"


def test_a_light_item_is_not_split() -> None:
    items = [Item(10, 1.0, (0.5, 0.5))] * 8
    assert expected(items, 0.0, 2, split=True) == expected(items, 0.0, 2, split=False)


def test_growth_is_the_exponent_of_a_power_law() -> None:
    assert growth([10, 100, 1000], [2, 6, 200]) == pytest.approx(1)
    assert growth([1, 4], [3, 6]) == pytest.approx(0.5)
