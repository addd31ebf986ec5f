"""The definitions of support, closedness and starts, enumerated literally."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest

Items = tuple[int, ...]
Positions = tuple[int, ...]


def valid(positions: Positions, max_gap: int | None, max_span: int | None) -> bool:
    """Tell whether ascending positions obey both limits."""
    gaps = [right - left - 1 for left, right in pairwise(positions)]
    if max_gap is not None and any(gap > max_gap for gap in gaps):
        return False
    return max_span is None or positions[-1] - positions[0] + 1 <= max_span


def occurrences(
    documents: Sequence[Sequence[int]], max_gap: int | None, max_span: int | None
) -> dict[Items, dict[int, list[Positions]]]:
    """Return every sequence that occurs, with its valid occurrences in each document."""
    found: dict[Items, dict[int, list[Positions]]] = defaultdict(lambda: defaultdict(list))
    for number, document in enumerate(documents):
        for length in range(1, len(document) + 1):
            for positions in combinations(range(len(document)), length):
                if valid(positions, max_gap, max_span):
                    found[tuple(document[i] for i in positions)][number].append(positions)
    return found


def extensions(
    document: Sequence[int],
    positions: list[Positions],
    max_gap: int | None,
    max_span: int | None,
) -> set[tuple[int, int]]:
    """Return the (slot, item) pairs with which some occurrence stays valid."""
    found = set()
    for occurrence in positions:
        for i in set(range(len(document))) - set(occurrence):
            extended = tuple(sorted((*occurrence, i)))
            if valid(extended, max_gap, max_span):
                found.add((extended.index(i), document[i]))
    return found


def closed(
    documents: Sequence[Sequence[int]],
    min_support: int,
    min_length: int,
    max_length: int,
    max_gap: int | None,
    max_span: int | None,
) -> dict[Items, tuple[int, int]]:
    """Return each closed pattern with its support and its number of start positions."""
    result = {}
    for items, supporting in occurrences(documents, max_gap, max_span).items():
        if len(supporting) < min_support or not min_length <= len(items) <= max_length:
            continue
        common = set.intersection(
            *(
                extensions(documents[number], positions, max_gap, max_span)
                for number, positions in supporting.items()
            )
        )
        if not common:
            starts = {(d, q[0]) for d, positions in supporting.items() for q in positions}
            result[items] = (len(supporting), len(starts))
    return result


@pytest.fixture(scope="session")
def closed_by_definition() -> Callable[..., Any]:
    """Return :func:`closed`."""
    return closed


@pytest.fixture(scope="session")
def occurrences_by_definition() -> Callable[..., Any]:
    """Return :func:`occurrences`."""
    return occurrences
