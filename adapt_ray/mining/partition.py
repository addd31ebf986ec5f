"""Splitting the search by first item, exactly.

Every shard gets whole documents and some of the first items. All documents that support a pattern
are then at hand where the pattern is searched, items before its first one included, so its support
and whether it is closed are decided there: the union of the shards is the result, with no second
pass, for any number of shards. (Shards of documents, or of suffixes, would need one.)
"""

import heapq
from collections.abc import Sequence

import numpy as np

from adapt_ray.config import MiningConfig
from adapt_ray.mining.closed import EncodedCorpus, Int32, Patterns, document_support


def first_item_shards(corpus: EncodedCorpus, limits: MiningConfig, parts: int) -> list[Int32]:
    """Return up to ``parts`` ascending arrays of first items, with about equal numbers of tokens.

    Together they hold every frequent item once. The heaviest item goes first, always to the
    lightest shard. Fewer frequent items than parts give fewer shards, none gives no shard.
    """
    ids, tokens, support = document_support(corpus)
    counts = np.bincount(tokens, minlength=ids.size)
    frequent = np.flatnonzero(support >= limits.min_support)
    heaviest_first = frequent[np.argsort(-counts[frequent], kind="stable")]
    loads = [(0, shard) for shard in range(min(parts, frequent.size))]
    shards: list[list[int]] = [[] for _ in loads]
    for item in heaviest_first.tolist():
        load, shard = heapq.heappop(loads)
        shards[shard].append(item)
        heapq.heappush(loads, (load + int(counts[item]), shard))
    return [ids[np.sort(shard)] for shard in shards]


def merge(parts: Sequence[Patterns]) -> Patterns:
    """Return the patterns of all shards in lexicographic order.

    Each shard must hold different first items, in lexicographic order, as the search returns them.
    """
    lengths = np.concatenate([_EMPTY, *(np.diff(part.offsets) for part in parts)])
    items = np.concatenate([np.empty(0, np.int32), *(part.items for part in parts)])
    support = np.concatenate([_EMPTY, *(part.support for part in parts)])
    starts = np.concatenate([_EMPTY, *(part.starts for part in parts)])
    begin = np.cumsum(lengths) - lengths
    order = np.argsort(items[begin], kind="stable")
    offsets = np.zeros(order.size + 1, np.int64)
    np.cumsum(lengths[order], out=offsets[1:])
    # Item i of a pattern moves from begin + i to offset + i.
    source = np.arange(items.size) + np.repeat(begin[order] - offsets[:-1], lengths[order])
    return Patterns(items[source], offsets, support[order], starts[order])


_EMPTY = np.empty(0, np.int64)
