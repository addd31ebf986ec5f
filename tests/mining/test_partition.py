"""Shards: every first item once, balanced, and their union is the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.config import MiningConfig
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.masking import MaskedCorpus, mask
from adapt_ray.mining.partition import Shard, shards
from adapt_ray.mining.patterns import merge

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
    work = shards(mask(corpus, 2), parts)
    whole = mine_patterns(corpus, limits)
    union = merge([mine_patterns(corpus, limits, shard) for shard in work])
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(union, field), getattr(whole, field))


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
def test_every_frequent_item_stands_in_one_shard(parts: int) -> None:
    random = np.random.default_rng(0)
    corpus = EncodedCorpus.from_documents(random.zipf(1.5, (40, 30)).clip(max=90))
    work = shards(mask(corpus, 3), parts)
    assert len(work) <= 2 * parts
    supports = [sum(i in row for row in corpus.tokens.reshape(40, 30)) for i in range(91)]
    wanted = [i for i, support in enumerate(supports) if support >= 3]
    assert sorted(np.concatenate([s.items for s in work if s.part[0] == 0])) == wanted
    assert all((np.diff(shard.items) > 0).all() and shard.items.size for shard in work)


def loads(corpus: MaskedCorpus, work: list[Shard]) -> list[float]:
    weight = dict(zip(corpus.vocabulary.tolist(), corpus.occurrences.tolist(), strict=True))
    return [sum(weight[i] for i in shard.items.tolist()) / shard.part[1] for shard in work]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    parts=st.integers(1, 8),
)
def test_no_shard_is_heavier_than_two_fair_ones(counts: list[int], parts: int) -> None:
    documents = [[item for item, n in enumerate(counts) for _ in range(n)]] * 2
    corpus = mask(EncodedCorpus.from_documents(documents), 2)
    found = loads(corpus, shards(corpus, parts))
    assert found == sorted(found, reverse=True), "heaviest first"
    assert max(found) <= 2 * max(2 * sum(counts) / parts, 1)
    assert sum(found) == pytest.approx(2 * sum(counts))


def test_a_heavy_item_is_split_by_second_items() -> None:
    corpus = mask(EncodedCorpus.from_documents([[0] * 9 + [1, 2, 3]] * 5), 5)
    split = [shard for shard in shards(corpus, 4) if shard.items.tolist() == [0]]
    assert [shard.part for shard in split] == [(0, 3), (1, 3), (2, 3)]


def test_items_that_are_not_frequent_have_no_patterns() -> None:
    corpus = EncodedCorpus.from_documents([[1, 2]] * 5 + [[3]])
    assert len(mine_patterns(corpus, MiningConfig(), Shard(np.array([3, 77], np.int32)))) == 0


def test_nothing_to_split() -> None:
    corpus = EncodedCorpus.from_documents([[1], [2]])
    assert shards(mask(corpus, 5), 4) == []
    assert len(merge([])) == 0
