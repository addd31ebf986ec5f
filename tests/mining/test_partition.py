"""Shards: every first item once, balanced, and their union is the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.config import MiningConfig
from adapt_ray.mining.closed import EncodedCorpus, mine_patterns
from adapt_ray.mining.partition import first_item_shards, merge

FIELDS = ("items", "offsets", "support", "starts")


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=8),
    parts=st.integers(1, 9),
    max_gap=st.none() | st.integers(0, 2),
    max_span=st.none() | st.integers(1, 6),
)
def test_union_of_shards_is_the_whole(
    documents: list[list[int]], parts: int, max_gap: int | None, max_span: int | None
) -> None:
    corpus = EncodedCorpus.from_documents(documents)
    limits = MiningConfig(min_support=2, min_length=1, max_gap=max_gap, max_span=max_span)
    shards = first_item_shards(corpus, limits, parts)
    whole = mine_patterns(corpus, limits)
    union = merge([mine_patterns(corpus, limits, shard) for shard in shards])
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(union, field), getattr(whole, field))


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
def test_every_frequent_item_stands_in_one_shard(parts: int) -> None:
    random = np.random.default_rng(0)
    corpus = EncodedCorpus.from_documents(random.zipf(1.5, (40, 30)).clip(max=90))
    shards = first_item_shards(corpus, MiningConfig(min_support=3), parts)
    supports = [sum(i in row for row in corpus.tokens.reshape(40, 30)) for i in range(91)]
    assert sorted(np.concatenate(shards)) == [i for i, s in enumerate(supports) if s >= 3]
    assert all((np.diff(shard) > 0).all() for shard in shards)
    assert all(shard.size for shard in shards)


def test_loads_are_level_as_far_as_the_heaviest_item_allows() -> None:
    corpus = EncodedCorpus.from_documents([[0] * 8 + [1] * 5 + [2] * 4 + [3] * 3] * 5)
    shards = first_item_shards(corpus, MiningConfig(), 2)
    assert [shard.tolist() for shard in shards] == [[0, 3], [1, 2]]


def test_items_that_are_not_frequent_have_no_patterns() -> None:
    corpus = EncodedCorpus.from_documents([[1, 2]] * 5 + [[3]])
    assert len(mine_patterns(corpus, MiningConfig(), np.array([3, 77], np.int32))) == 0


def test_nothing_to_split() -> None:
    corpus = EncodedCorpus.from_documents([[1], [2]])
    assert first_item_shards(corpus, MiningConfig(), 4) == []
    assert len(merge([])) == 0
