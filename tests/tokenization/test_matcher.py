"""The matcher against exhaustive matching."""

from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.tokenization.matcher import Matcher


def occurs(
    document: list[int], start: int, sequence: list[int], max_gap: int | None, max_span: int | None
) -> bool:
    """Try every choice of positions for the items after the first."""
    if document[start] != sequence[0]:
        return False
    for rest in combinations(range(start + 1, len(document)), len(sequence) - 1):
        positions = (start, *rest)
        gaps = [right - left - 1 for left, right in pairwise(positions)]
        if (
            [document[i] for i in positions] == sequence
            and (max_gap is None or all(gap <= max_gap for gap in gaps))
            and (max_span is None or positions[-1] - start < max_span)
        ):
            return True
    return False


def flat(
    documents: list[list[int]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, documents)])
    return np.array([t for d in documents for t in d], np.int32), offsets.astype(np.int64)


items = st.integers(0, 3)


@settings(max_examples=300, deadline=None)
@given(
    documents=st.lists(st.lists(items, max_size=9), max_size=4),
    sequences=st.lists(st.lists(items, min_size=1, max_size=4), max_size=6),
    max_gap=st.none() | st.integers(0, 3),
    max_span=st.none() | st.integers(1, 9),
    data=st.data(),
)
def test_best_equals_exhaustive_matching(
    documents: list[list[int]],
    sequences: list[list[int]],
    max_gap: int | None,
    max_span: int | None,
    data: st.DataObject,
) -> None:
    size = len(sequences)
    priorities = data.draw(st.lists(st.integers(-2, 3), min_size=size, max_size=size))
    best = Matcher(sequences, np.array(priorities, np.int64), max_gap, max_span).best(
        *flat(documents)
    )
    wanted = [
        min(
            (
                i
                for i, sequence in enumerate(sequences)
                if occurs(document, start, sequence, max_gap, max_span)
            ),
            key=lambda i: (priorities[i], i),
            default=-1,
        )
        for document in documents
        for start in range(len(document))
    ]
    assert best.tolist() == wanted
    assert best.dtype == np.int32


@pytest.mark.parametrize(("max_gap", "starts"), [(3, 91), (None, 371)])
def test_many_ways_to_the_same_state_do_not_blow_up(max_gap: int | None, starts: int) -> None:
    """Naive backtracking would try about 4^29 ways before it finds that 1 is missing.

    Starts leave room for 29 more zeros (0 to 370), and lie at most 30 * 4 places before the 1.
    """
    document = [0] * 400
    matcher = Matcher([[0] * 30 + [1]], np.array([0]), max_gap, None)
    assert (matcher.best(*flat([document])) == -1).all()
    found = np.flatnonzero(matcher.best(*flat([[*document, 1]])) == 0)
    assert found.tolist() == list(range(371 - starts, 371))


def test_tokens_that_no_sequence_knows() -> None:
    matcher = Matcher([[5, 9]], np.array([0]), 1, None)
    assert matcher.best(*flat([[5, 2**31 - 1, 9, -7]])).tolist() == [0, -1, -1, -1]


def test_read_only_input_is_matched() -> None:
    tokens, offsets = flat([[1, 2]])
    tokens.flags.writeable = False
    offsets.flags.writeable = False
    assert Matcher([[1, 2]], np.array([0]), 0, None).best(tokens, offsets).tolist() == [0, -1]
