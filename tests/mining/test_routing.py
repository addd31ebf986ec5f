"""What is sent to a partition decides about its patterns, wherever the blocks are cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.config import MiningConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.partition import Shard
from adapt_ray.mining.patterns import Patterns, merge
from adapt_ray.mining.routing import (
    MASKED,
    Partition,
    Reach,
    add_costs,
    assemble,
    costs,
    divide,
    route,
    second_costs,
    too_heavy,
)

FIELDS = ("items", "offsets", "support", "starts")
Documents = list[list[int]]


def database(seed: int) -> Documents:
    """Return long documents, some with a part in common; items are evenly frequent or not."""
    random = np.random.default_rng(seed)
    part = random.integers(0, 4, 6).tolist()
    documents = []
    for _ in range(random.integers(1, 9)):
        items = random.integers(0, random.integers(1, 16), random.integers(0, 80))
        if random.random() < 0.3:
            items = (random.zipf(2, items.size) - 1).clip(max=20)
        cut = random.integers(0, items.size + 1)
        middle = part if random.random() < 0.5 else []
        documents.append([*items[:cut].tolist(), *middle, *items[cut:].tolist()])
    return documents


databases = st.integers(0, 2**32).map(database)
limits_of_any_kind = st.builds(
    MiningConfig,
    min_support=st.sampled_from([1, 2, 2, 3]),
    min_length=st.just(1),
    max_length=st.integers(1, 6),
    max_gap=st.sampled_from([None, 0, 0, 1, 2]),
    max_span=st.sampled_from([None, None, 1, 3, 5, 9]),
)


def blocks_of(documents: Documents, size: int) -> list[EncodedCorpus]:
    starts = range(0, len(documents), size)
    return [EncodedCorpus.from_documents(documents[start : start + size]) for start in starts]


def mine_routed(
    blocks: list[EncodedCorpus], limits: MiningConfig, parts: int, bound: float
) -> Patterns | None:
    """Mine as the shuffled path does, without shuffling; None where the bound is too low.

    ``bound`` is the most that a partition may be sent, as a share of what the heaviest item needs.
    """
    reach = Reach.of(limits)
    total = add_costs(costs(block, reach) for block in blocks)
    most_tokens = max(1, int(bound * total.tokens.max(initial=0)))
    heavy = too_heavy(total, limits.min_support, most_tokens) if reach else []
    seconds = {
        item: add_costs(second_costs(block, item, reach) for block in blocks if reach)
        for item in heavy
    }
    try:
        partitions = divide(total, seconds, limits, parts, most_tokens)
    except InputError:
        return None
    if not partitions:
        return merge([])
    sent: list[list[Any]] = [[] for _ in partitions]
    for block in blocks:
        routed = route(block, partitions, reach)
        pieces = zip(routed.tokens, routed.lengths, strict=True)
        for number, piece in zip(routed.partitions.tolist(), pieces, strict=True):
            sent[number].append(piece)
    found = []
    for partition, rows in zip(partitions, sent, strict=True):
        tokens, lengths = zip(*rows, strict=True)
        assert sum(piece.size for piece in tokens) <= partition.cost <= most_tokens
        patterns = mine_patterns(
            assemble(tokens, lengths), partition.limits(limits), partition.shard
        )
        found.append(partition.own(patterns))
    return merge(found)


@settings(max_examples=200, deadline=None)
@given(
    documents=databases,
    size=st.integers(1, 9),
    limits=limits_of_any_kind,
    parts=st.integers(1, 9),
    bound=st.floats(0.5, 1.2),
)
def test_routed_documents_give_the_patterns_of_the_whole(
    documents: Documents, size: int, limits: MiningConfig, parts: int, bound: float
) -> None:
    whole = mine_patterns(EncodedCorpus.from_documents(documents), limits)
    found = mine_routed(blocks_of(documents, size), limits, parts, bound)
    if found is None:
        assert bound < 1
        return
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(found, field), getattr(whole, field))


@pytest.mark.parametrize("max_length", [4, 10_000])
def test_routed_documents_give_the_golden_patterns(
    golden: tuple[Documents, MiningConfig, dict[tuple[int, ...], int]], max_length: int
) -> None:
    documents, limits, wanted = golden
    limits = limits.model_copy(update={"max_length": max_length})
    found = mine_routed(blocks_of(documents, 150), limits, 7, 1.0)
    assert found is not None
    assert found.as_mapping() == {p: n for p, n in wanted.items() if len(p) <= max_length}


@given(documents=databases, size=st.integers(1, 9))
def test_support_is_counted_over_blocks(documents: Documents, size: int) -> None:
    total = add_costs(costs(block, None) for block in blocks_of(documents, size))
    items = sorted({item for document in documents for item in document})
    assert total.items.tolist() == items
    holding = [[document for document in documents if item in document] for item in items]
    assert total.support.tolist() == [len(found) for found in holding]
    assert total.tokens.tolist() == [sum(map(len, found)) for found in holding]


@pytest.mark.parametrize(
    ("max_gap", "max_span", "max_length", "expected"),
    [
        (1, None, 20, Reach(2, 40)),
        (0, None, 3, Reach(1, 3)),
        (None, 6, 20, Reach(5, 5)),
        (1, 6, 20, Reach(2, 5)),
        (9, 6, 20, Reach(5, 5)),
        (1, 1, 20, Reach(0, 0)),
        (None, None, 20, None),
    ],
)
def test_how_far_a_start_reaches(
    max_gap: int | None, max_span: int | None, max_length: int, expected: Reach | None
) -> None:
    limits = MiningConfig(max_gap=max_gap, max_span=max_span, max_length=max_length)
    assert Reach.of(limits) == expected


def test_windows_are_cut_and_put_together() -> None:
    """Back 1, ahead 2: around the sevens at 3, at 9, and at 11."""
    corpus = EncodedCorpus.from_documents([[0, 1, 2, 7, 3, 4, 5, 5, 6, 7, 8, 7], [1, 2], [7]])
    limits = MiningConfig(min_support=2, min_length=1, max_length=2, max_gap=0)
    routed = route(corpus, [Partition(Shard(np.array([7], np.int32)), 0)], Reach.of(limits))
    assert routed.lengths[0].tolist() == [8, 1]
    assert routed.tokens[0].tolist() == [2, 7, 3, 4, 6, 7, 8, 7, 7]


def test_a_window_goes_only_where_the_second_item_follows() -> None:
    corpus = EncodedCorpus.from_documents([[7, 1, 5, 7, 5, 2, 7, 4, 5, 7, 1], [5, 7]])
    limits = MiningConfig(min_support=2, min_length=1, max_length=2, max_gap=0)
    first = Shard(np.array([7], np.int32))
    seconds = [np.array(items, np.int32) for items in ([1], [5], [-1])]
    parts = [Partition(first, 0, items) for items in seconds]
    routed = route(corpus, parts, Reach.of(limits))
    assert routed.partitions.tolist() == [0, 1, 2]
    assert routed.tokens[0].tolist() == [7, 1, 5, MASKED, 5, 7, 1]
    assert routed.tokens[1].tolist() == [5, 7, 5, 2]
    assert routed.lengths[2].tolist() == [11, 2]


def test_windows_of_a_split_item_do_not_touch() -> None:
    """The second 7 is followed by another item than 5, but by 5 where the next window begins."""
    documents = [[7, 5, 7, 1, 1, 1, 1, 5, 7, 5]] * 2
    limits = MiningConfig(min_support=2, max_length=2, max_gap=0)
    partition = Partition(Shard(np.array([7], np.int32)), 0, np.array([5], np.int32))
    corpus = EncodedCorpus.from_documents(documents)
    routed = route(corpus, [partition], Reach.of(limits))
    assert routed.tokens[0].tolist() == [7, 5, 7, MASKED, 5, 7, 5] * 2
    found = mine_patterns(assemble(routed.tokens, routed.lengths[:1]), limits, partition.shard)
    assert found.as_mapping() == {}, "5 7 5 and 7 5 7 make 7 5 no closed pattern"


def test_partitions_are_level_and_within_the_bound() -> None:
    corpus = EncodedCorpus.from_documents([[0] * 8, [1] * 5, [2] * 4, [3] * 3, [3]] * 5)

    def divided(min_support: int, parts: int, most_tokens: int) -> list[list[int]]:
        limits = MiningConfig(min_support=min_support)
        found = divide(costs(corpus, None), {}, limits, parts, most_tokens)
        return [partition.shard.items.tolist() for partition in found]

    assert divided(5, 2, 1000) == [[0, 3], [1, 2]]
    assert divided(5, 2, 45) == [[1, 2], [0], [3]]
    assert divided(11, 2, 1000) == []
    with pytest.raises(InputError, match="token 0 .* mining.memory_gb = 4; raise it to 4.3"):
        divided(5, 2, 38)
