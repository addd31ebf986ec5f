"""The definitions of support, closedness and starts, enumerated literally."""

import gzip
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from adapt_ray.config import MiningConfig

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


GOLDEN = {
    "rt_first1000.bide_minsup5": (None, None),
    "rt_first1000.closed_minsup5_gap1_spanNone": (1, None),
    "rt_first1000.closed_minsup5_gap2_spanNone": (2, None),
    "rt_first1000.closed_minsup5_gapNone_span8": (None, 8),
    "sciie_first300.bide_minsup10": (None, None),
    "sciie_first300.bide_minsup5": (None, None),
    "sciie_first300.closed_minsup5_gap0_spanNone": (0, None),
    "sciie_first300.closed_minsup5_gap1_spanNone": (1, None),
    "sciie_first300.closed_minsup5_gap2_span10": (2, 10),
}


def read_golden(path: Path) -> dict[tuple[int, ...], int]:
    patterns = {}
    with gzip.open(path, "rt") as lines:
        for line in lines:
            items, support = line.split("#SUP:")
            patterns[tuple(int(t) for t in items.split() if t != "-1")] = int(support)
    return patterns


@pytest.fixture(params=GOLDEN)
def golden(
    shared: Path, request: pytest.FixtureRequest
) -> tuple[list[list[int]], MiningConfig, dict[Items, int]]:
    """Return documents, limits, and what an independent implementation found."""
    folder = shared / "golden"
    assert {path.name.removesuffix(".txt.gz") for path in folder.glob("*.gz")} == set(GOLDEN)
    corpus, _, kind = request.param.partition(".")
    lines = (folder / f"{corpus}.spmf").read_text().splitlines()
    documents = [[int(t) for t in line.split() if int(t) >= 0] for line in lines]
    support = re.search(r"minsup(\d+)", kind)
    assert support
    max_gap, max_span = GOLDEN[request.param]
    limits = MiningConfig(
        min_support=int(support[1]),
        min_length=1,
        max_length=10_000,
        max_gap=max_gap,
        max_span=max_span,
    )
    return documents, limits, read_golden(folder / f"{request.param}.txt.gz")
