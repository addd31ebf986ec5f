"""The miner against the definitions, against an independent implementation, and its edges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapt_ray
from adapt_ray.config import MiningConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.closed import CapError, mine_closed, mine_masked, mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.masking import mask
from adapt_ray.mining.patterns import Patterns

Documents = list[list[int]]
Golden = tuple[Documents, MiningConfig, dict[tuple[int, ...], int]]


def of_alphabet(size: int) -> st.SearchStrategy[Documents]:
    return st.lists(st.lists(st.integers(0, size - 1), max_size=8), max_size=6)


databases = st.integers(1, 4).flatmap(of_alphabet)


@settings(max_examples=400, deadline=None)
@given(
    documents=databases,
    repeats_first=st.booleans(),
    min_support=st.integers(1, 4),
    min_length=st.integers(1, 3),
    more_length=st.integers(0, 3) | st.just(20),
    max_gap=st.none() | st.integers(0, 3),
    max_span=st.none() | st.integers(1, 8),
)
def test_equals_the_definitions(
    closed_by_definition: Callable[..., Any],
    documents: Documents,
    repeats_first: bool,
    min_support: int,
    min_length: int,
    more_length: int,
    max_gap: int | None,
    max_span: int | None,
) -> None:
    if repeats_first:
        documents += documents[:1]
    limits = MiningConfig(
        min_support=min_support,
        min_length=min_length,
        max_length=min_length + more_length,
        max_gap=max_gap,
        max_span=max_span,
    )
    wanted = closed_by_definition(
        documents, min_support, min_length, min_length + more_length, max_gap, max_span
    )
    found = mine_patterns(EncodedCorpus.from_documents(documents), limits)
    corpus = mask(EncodedCorpus.from_documents(documents), min_support)
    uncounted = mine_masked(corpus, limits, threads=2, count_starts=False)
    assert uncounted.as_mapping() == found.as_mapping()
    supports = found.as_mapping()
    figures = zip(supports.values(), found.starts.tolist(), strict=True)
    assert dict(zip(supports, figures, strict=True)) == wanted
    assert list(supports) == sorted(wanted), "lexicographic order"


def test_equals_golden_file(golden: Golden) -> None:
    documents, limits, wanted = golden
    corpus = mask(EncodedCorpus.from_documents(documents), limits.min_support)
    assert mine_masked(corpus, limits, threads=2).as_mapping() == wanted


def test_pruning_looks_at_every_end() -> None:
    """Where the first end alone would prune: 9 precedes the first 1 of each document only.

    1 3 is closed, since its occurrences start at the second 1, which nothing precedes.
    """
    documents = [[9, 1, 7, 7, 1, 3], [9, 1, 8, 8, 1, 3]]
    assert mine_closed(documents, 2, 1, 20, 0) == {(1, 3): 2, (9, 1): 2}


def test_span_limit_never_prunes_on_items_before() -> None:
    """9 precedes every 1, but 9 1 3 is wider than 3 tokens in the second document."""
    documents = [[9, 1, 3], [9, 1, 7, 3]]
    assert mine_closed(documents, 2, 2, 20, 1, 3) == {(1, 3): 2, (9, 1): 2}


def test_infrequent_tokens_keep_their_place() -> None:
    """5 and 6 stand once each; deleting them would make 1 and 2 neighbours."""
    assert mine_closed([[1, 5, 2], [1, 6, 2]], 2, 2, 20, 0) == {}
    assert mine_closed([[1, 5, 2], [1, 6, 2]], 2, 2, 20, 1) == {(1, 2): 2}


def test_length_limits_only_filter() -> None:
    documents = [[1, 2, 3, 4]] * 3
    assert mine_closed(documents, 3, 1, 20, 0) == {(1, 2, 3, 4): 3}
    assert mine_closed(documents, 3, 1, 3, 0) == {}, "1 2 3 is not closed, however long 4 is"
    assert mine_closed(documents, 3, 5, 20, 0) == {}


def test_public_entry() -> None:
    assert adapt_ray.mine_closed([[1, 2], [1, 2]], min_support=2) == {(1, 2): 2}


def test_equal_documents_all_count() -> None:
    assert mine_closed([[1, 2]] * 7, 5) == {(1, 2): 7}


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []], [[1], [2], [3]]])
def test_nothing_to_find(documents: Documents) -> None:
    assert mine_closed(documents, 2, 1) == {}


def test_documents_may_be_arrays_of_any_integer_type() -> None:
    documents = [np.array([1, 2, 3], dtype) for dtype in (np.int64, np.uint16, np.int8)]
    assert mine_closed([*documents, (1, 2, 3), np.array([])], 4) == {(1, 2, 3): 4}


def test_read_only_arrays_are_mined() -> None:
    corpus = EncodedCorpus.from_documents([[1, 2]] * 5)
    corpus.tokens.flags.writeable = False
    corpus.offsets.flags.writeable = False
    assert mine_patterns(corpus, MiningConfig()).as_mapping() == {(1, 2): 5}


def test_huge_ids_need_no_huge_table() -> None:
    largest = 2**31 - 1
    assert mine_closed([[largest, 3, 0]] * 5) == {(largest, 3, 0): 5}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([1, -1], "document 1 holds -1"),
        ([2**31], "document 1 holds 2147483648"),
        ([2**70], "document 1 holds 1180591620717411303424"),
        ([1.5], r"document 1 holds 1\.5"),
        (["a"], "document 1 holds 'a'"),
        ([None], "document 1 holds None"),
        ([[1], [2]], "document 1 is not a flat sequence"),
        ([[1], [2, 3]], "document 1 is not a flat sequence"),
        (7, "document 1 is not a flat sequence"),
    ],
)
def test_bad_documents_are_named(document: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        mine_closed([[1, 2], document])  # type: ignore[list-item]


def test_a_damaged_corpus_is_refused() -> None:
    damaged = EncodedCorpus(np.array([1, -7, 2], np.int32), np.array([0, 3]))
    with pytest.raises(InputError, match="token id -7; ids are 0 or more"):
        mine_patterns(damaged, MiningConfig())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_support", 0),
        ("min_length", 0),
        ("max_length", 1),
        ("max_gap", -1),
        ("max_span", 0),
        ("min_support", 2.5),
        ("max_patterns", 0),
        ("max_seconds", 0),
        ("memory_gb", 0),
        ("threads", 0),
    ],
)
def test_bad_limits_are_named(option: str, value: int) -> None:
    with pytest.raises(InputError, match=option) as error:
        mine_closed([[1, 2]], **{option: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_too_many_patterns_end_with_an_error_that_keeps_them(threads: int) -> None:
    documents = [[1, 2], [2, 3], [3, 4], [4, 5]] * 2
    assert len(mine_closed(documents, 2, max_patterns=4, threads=threads)) == 4
    with pytest.raises(
        CapError, match=r"max_patterns = 3 .* 3 patterns .*min_support .*max_gap"
    ) as error:
        mine_closed(documents, 2, max_patterns=3)
    assert error.value.partial.as_mapping() == {(1, 2): 2, (2, 3): 2, (3, 4): 2}
    assert (error.value.searched, error.value.total) == (3, 5)


@pytest.mark.parametrize("max_gap", [1, None])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_without_end_is_refused(max_gap: int | None, threads: int) -> None:
    """Prefixes of patterns that are too short to be reported are far too many."""
    documents = np.random.default_rng(0).integers(0, 2, (4, 100)).tolist()
    with pytest.raises(CapError, match=r"not done after max_seconds = 0\.5: 0 patterns"):
        mine_closed(documents, 2, 99, 99, max_gap, max_seconds=0.5, threads=threads)


def test_a_search_that_outgrows_the_memory_is_refused() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 6, 40).tolist() for _ in range(500)]
    with pytest.raises(
        CapError, match=r"more than memory_gb = 0\.005 GiB: .* raise memory_gb"
    ) as e:
        mine_closed(documents, 20, 1, 40, None, memory_gb=0.005)
    whole = mine_closed(documents, 20, 1, 4, None)
    found = e.value.partial.as_mapping()
    assert found
    assert all(whole[p] == support for p, support in found.items() if len(p) <= 4)


def test_patterns_survive_saving(tmp_path: Path) -> None:
    documents = [[1, 2, 3, 1, 2], [1, 2, 4], [3, 1, 2]]
    patterns = mine_patterns(
        EncodedCorpus.from_documents(documents), MiningConfig(min_support=2, min_length=1)
    )
    assert len(patterns) == 2
    for name, kept in [("some", patterns), ("none", nothing())]:
        folder = tmp_path / name
        folder.mkdir()
        kept.save(folder)
        loaded = Patterns.load(folder)
        for field in ("items", "offsets", "support", "starts"):
            expected = getattr(kept, field)
            np.testing.assert_array_equal(getattr(loaded, field), expected)
            assert getattr(loaded, field).dtype == expected.dtype


def nothing() -> Patterns:
    return mine_patterns(EncodedCorpus.from_documents([]), MiningConfig())


def test_foreign_parquet_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"items": [1]}), tmp_path / "patterns.parquet")
    with pytest.raises(InputError, match="items: int64"):
        Patterns.load(tmp_path)
