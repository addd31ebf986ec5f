"""The search for occurrences against exhaustive enumeration, under every kind of limit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.kernel_occurrences import (
    Occurrences,
    choose,
    count_classes,
    locate,
    occurrences,
)

Sequences = list[tuple[int, ...]]


def index(
    documents: list[list[int]], sequences: Sequences, gap: int | None, span: int | None
) -> Occurrences:
    corpus = EncodedCorpus.from_documents(documents)
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    offsets = np.cumsum([0, *map(len, sequences)])
    return occurrences(corpus.tokens, corpus.offsets, items, offsets, gap, span)


cases = given(
    documents=st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=6),
    sequences=st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1),
    gap=st.sampled_from([None, 0, 1, 2]),
    span=st.sampled_from([None, 2, 3, 5]),
)


@settings(max_examples=200, deadline=None)
@cases
def test_documents_are_counted_by_class(
    occurrences_by_definition: Callable[..., Any],
    documents: list[list[int]],
    sequences: set[tuple[int, ...]],
    gap: int | None,
    span: int | None,
) -> None:
    ordered = sorted(sequences)
    found = occurrences_by_definition(documents, gap, span)
    weights = np.random.default_rng(0).random((len(documents), 2))
    sums = count_classes(index(documents, ordered, gap, span), weights)
    wanted = [weights[sorted(found.get(one, {}))].sum(0) for one in ordered]
    np.testing.assert_allclose(sums, wanted)


@settings(max_examples=200, deadline=None)
@cases
def test_the_first_occurrence_of_each_document_is_the_nearest_one(
    occurrences_by_definition: Callable[..., Any],
    documents: list[list[int]],
    sequences: set[tuple[int, ...]],
    gap: int | None,
    span: int | None,
) -> None:
    ordered = sorted(sequences)
    found = occurrences_by_definition(documents, gap, span)
    begin = np.cumsum([0, *map(len, documents)])
    number, positions = locate(index(documents, ordered, gap, span), 2)
    located = [
        (n, tuple(row[: len(ordered[n])]))
        for n, row in zip(number.tolist(), positions.tolist(), strict=True)
    ]
    wanted = [
        (n, tuple(begin[d] + np.array(min(found[one][d]))))
        for n, one in enumerate(ordered)
        for d in sorted(found.get(one, {}))[:2]
    ]
    assert located == wanted


@settings(max_examples=200, deadline=None)
@cases
def test_sequences_count_by_documents_that_hold_them_apart(
    occurrences_by_definition: Callable[..., Any],
    documents: list[list[int]],
    sequences: set[tuple[int, ...]],
    gap: int | None,
    span: int | None,
) -> None:
    ordered = sorted(sequences)
    find = index(documents, ordered, gap, span)
    found = occurrences_by_definition(documents, gap, span)
    order = np.random.default_rng(len(ordered)).permutation(len(ordered))
    taken, started = choose(find, order, 2, 3, 6)
    wanted: list[int] = []
    starts: set[tuple[int, int]] = set()
    covered: set[tuple[int, int]] = set()
    for n in order.tolist():
        nearest: dict[tuple[int, int], tuple[int, ...]] = {}
        for d, rows in found.get(ordered[n], {}).items():
            for row in sorted(rows):
                nearest.setdefault((d, row[0]), row)
        cells = [{(d, i) for i in row} for (d, _), row in nearest.items()]
        apart = {d for (d, _), cell in zip(nearest, cells, strict=True) if not cell & covered}
        if len(wanted) == 3:
            break
        if len(apart) < 2:
            continue
        if len(starts | set(nearest)) > 6:
            break
        wanted.append(n)
        starts |= set(nearest)
        covered = covered.union(*cells)
    assert (taken.tolist(), started) == (wanted, len(starts))


def test_repetition_does_not_explode() -> None:
    """The ways through 300 equal tokens are more than any machine can try."""
    documents = [[1] * 300 + [2], [1] * 300 + [3, 3, 3, 2]]
    sequences = [(1,) * 40 + (2,), (1,) * 40 + (2, 4)]
    for gap, span in [(1, None), (3, None), (None, None), (None, 200)]:
        find = index(documents, sequences, gap, span)
        assert count_classes(find, np.eye(2)).tolist() == [[1, gap != 1], [0, 0]]
        assert set(locate(find, 5)[0].tolist()) == {0}
        assert choose(find, np.arange(2), 1, 2, 600)[0].tolist() == [0]
