"""Splitting the search by first items, exactly.

Every shard gets whole documents and some of the first items. All documents that support a pattern
are then at hand where the pattern is searched, items before its first one included, so its support
and whether it is closed are decided there: the union of the shards is the result, with no second
pass, for any number of shards. (Shards of documents, or of suffixes, would need one.) One first
item can be a sixth of the work ("the"): its shards share it by the item that comes second.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.masking import MaskedCorpus

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Shard:
    """First items to search.

    Of the items that come second, ``part`` (k, m) leaves those at index k modulo m to this shard.
    """

    items: Int32  # ascending ids
    part: tuple[int, int] = (0, 1)


def shards(corpus: MaskedCorpus, parts: int) -> list[Shard]:
    """Return about ``parts`` shards with about equal numbers of positions, the heaviest first.

    Together they hold every frequent item once, and no shard has twice its fair share: an item that
    is heavier than that is split by second items, the others go by neighbours. (Shards of
    neighbours are merged at no cost.) Fewer frequent items than parts give fewer shards, none gives
    no shard.
    """
    fair = max(int(corpus.occurrences.sum()) / parts, 1.0)
    weighted: list[tuple[float, Shard]] = []
    group: list[int] = []
    load = 0
    for item, weight in enumerate(corpus.occurrences.tolist()):
        pieces = math.ceil(weight / fair)
        if pieces > 1:
            split = Shard(corpus.vocabulary[[item]], (0, pieces))
            weighted += [(weight / pieces, replace(split, part=(k, pieces))) for k in range(pieces)]
            continue
        group.append(item)
        load += weight
        if load >= fair:
            weighted.append((load, Shard(corpus.vocabulary[group])))
            group, load = [], 0
    if group:
        weighted.append((load, Shard(corpus.vocabulary[group])))
    return [shard for _, shard in sorted(weighted, key=lambda pair: -pair[0])]
