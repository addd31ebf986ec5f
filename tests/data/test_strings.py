import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.data.strings import Strings

values = st.lists(st.text(max_size=6), max_size=30)


@given(values, st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([1, 2, -1]))
def test_they_read_like_a_tuple(values: list[str], start: int, stop: int, step: int) -> None:
    packed = Strings.of(iter(values))
    assert tuple(packed) == tuple(values)
    assert len(packed) == len(values)
    assert [packed[i] for i in range(-len(values), len(values))] == values * 2
    assert list(packed[start:stop:step]) == values[start:stop:step]


@given(values, st.data())
def test_rows_are_taken_in_the_order_given(values: list[str], data: st.DataObject) -> None:
    numbers = st.integers(0, max(0, len(values) - 1))
    rows = data.draw(st.lists(numbers, max_size=40 if values else 0))
    taken = Strings.of(values).take(np.array(rows, np.int64))
    assert list(taken) == [values[row] for row in rows]


@given(values, values, st.integers(0, 30))
def test_digests_are_equal_where_strings_are(one: list[str], two: list[str], cut: int) -> None:
    assert (Strings.of(one).digest() == Strings.of(two).digest()) == (one == two)
    column = pa.chunked_array([["removed", *one[:cut]], one[cut:]], pa.string())
    assert Strings(column)[1:].digest() == Strings.of(one).digest()
    assert Strings(column)[1:] == Strings.of(one)


def test_where_one_string_ends_counts() -> None:
    assert Strings.of(["ab", "c"]).digest() != Strings.of(["a", "bc"]).digest()
    assert Strings.of(["ab"]) != ["ab"]


def test_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 strings are null"):
        Strings(pa.chunked_array([["a", None]], pa.string()))
