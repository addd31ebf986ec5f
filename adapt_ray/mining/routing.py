"""Sending to each partition of first items the documents, or parts of them, that decide about it.

A corpus that is too large for one task's memory is cut into blocks of documents, each block sends
to every partition what that partition needs, and the partition mines what it got. The result is
that of the whole corpus, exactly:

Let g be the largest gap, w the widest span and L the greatest length of a pattern. An occurrence of
at most L items that starts at position q ends at q + (L - 1)(g + 1) at most, and the items that it
can be extended by lie from q - (g + 1) to q + L(g + 1); with a span limit, from q - (w - 1) to
q + (w - 1). So for the patterns that start with an item a, a document may be cut down to such
windows around every position of a, and the windows be put together without anything between them:
at every distance from q that a valid extended occurrence can reach, the same token stands as
before, and what now stands further away is still too far. (Where a window is cut short, the
document begins or ends, and no other window lies on that side.) Supports, starts and what is closed
are thereby as in the whole documents. Other items may become rarer, never more frequent; one that
extends a pattern in every supporting document stays as frequent as the pattern.

An item of which even the windows are too many is split by the second item of its patterns: a window
then is sent only where one of some second items follows within the gap. Patterns that go on with
one of them keep all their occurrences; the others are found with wrong figures and dropped. Here
other places of the first item can lie at the end of a window, and the next window would follow them
at once; so min(g + 1, w - 1) masked places go between two windows, which no occurrence can cross.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapt_ray.config import MiningConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.partition import Shard
from adapt_ray.mining.patterns import Patterns

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
MASKED = -1  # place of a document on its way that holds no item
ALONE = -1  # stands for the second item of a pattern that has none


@dataclass(frozen=True)
class Reach:
    """How far the tokens that decide about a start position lie from it."""

    back: int  # also how far the second item may lie ahead
    ahead: int

    @classmethod
    def of(cls, limits: MiningConfig) -> "Reach | None":
        """Return the reach under limits, or None when whole documents are needed."""
        steps = math.inf if limits.max_gap is None else limits.max_gap + 1
        span = math.inf if limits.max_span is None else limits.max_span - 1
        if min(steps, span) == math.inf:
            return None
        return cls(int(min(steps, span)), int(min(limits.max_length * steps, span)))


@dataclass(frozen=True, eq=False)
class Partition:
    """A shard of the search; of one first item, perhaps with some of the second items only."""

    shard: Shard
    cost: int  # for documents that are sent: at least their tokens
    seconds: Int32 | None = None  # ascending; ALONE only: the pattern of one item

    @property
    def identity(self) -> str:
        """What makes the partition another one, as a hash."""
        seconds = np.empty(0) if self.seconds is None else self.seconds
        content = [self.shard.items, seconds, np.array(self.shard.part)]
        return hashlib.sha256(b"|".join(a.astype("<i4").tobytes() for a in content)).hexdigest()

    @property
    def alone(self) -> bool:
        """Whether this is about the pattern of one item only."""
        return self.seconds is not None and bool(self.seconds[0] == ALONE)

    def limits(self, limits: MiningConfig) -> MiningConfig:
        """Return the limits to search this partition with."""
        return limits.model_copy(update={"max_length": 1}) if self.alone else limits

    def own(self, patterns: Patterns) -> Patterns:
        """Keep the patterns that this partition decides about."""
        if self.seconds is None or self.alone:
            return patterns
        lengths = np.diff(patterns.offsets)
        begin = np.minimum(patterns.offsets[:-1] + 1, patterns.items.size - 1)
        keep = (lengths > 1) & np.isin(patterns.items[begin], self.seconds)
        offsets = np.zeros(int(keep.sum()) + 1, np.int64)
        np.cumsum(lengths[keep], out=offsets[1:])
        items = patterns.items[np.repeat(keep, lengths)]
        return Patterns(items, offsets, patterns.support[keep], patterns.starts[keep])


@dataclass(frozen=True, eq=False)
class Routed:
    """Documents on their way, grouped by partition."""

    partitions: Int64  # [n], ascending; partitions that get something
    tokens: list[Int32]  # [n] arrays: the documents of a partition one after the other
    lengths: list[Int64]  # [n] arrays: tokens of each of these documents


@dataclass(frozen=True, eq=False)
class Costs:
    """What mining each item's patterns reads; mergeable over blocks of documents."""

    items: Int32  # [n], ascending
    support: Int64  # [n], documents with the item
    tokens: Int64  # [n], at least the tokens that are sent for it


def costs(corpus: EncodedCorpus, reach: Reach | None) -> Costs:
    """Return the costs of all first items of some documents."""
    items, number = np.unique(corpus.tokens, return_inverse=True)
    at = np.arange(corpus.tokens.size)
    roots = _Roots.whole(items.size, reach)
    return _costs(items, _windows(corpus, at, number.astype(np.int64), reach, roots))


def second_costs(corpus: EncodedCorpus, item: int, reach: Reach) -> Costs:
    """Return the costs of the second items of patterns that start with ``item``, and of ALONE."""
    at, seconds = _seconds(corpus, np.flatnonzero(corpus.tokens == item), reach)
    items, number = np.unique(seconds, return_inverse=True)
    roots = _Roots.split(items == ALONE, reach)
    return _costs(items, _windows(corpus, at, number.astype(np.int64), reach, roots))


def _costs(items: Int32, windows: "_Windows") -> Costs:
    # With a join for every window, the costs of several items are never below that of their union.
    sizes = windows.stop - windows.start + windows.join[windows.root]
    return Costs(
        items.astype(np.int32),
        np.bincount(windows.root[windows.first_of_document()], minlength=items.size),
        np.bincount(windows.root, sizes, items.size).astype(np.int64),
    )


def add_costs(parts: Iterable[Costs]) -> Costs:
    """Return the costs of all documents together."""
    found = list(parts)
    empty = np.empty(0, np.int64)
    items, number = np.unique(
        np.concatenate([np.empty(0, np.int32), *(part.items for part in found)]),
        return_inverse=True,
    )
    support, tokens = np.zeros((2, items.size), np.int64)
    np.add.at(support, number, np.concatenate([empty, *(part.support for part in found)]))
    np.add.at(tokens, number, np.concatenate([empty, *(part.tokens for part in found)]))
    return Costs(items, support, tokens)


def too_heavy(total: Costs, min_support: int, most_tokens: int) -> list[int]:
    """Return the frequent items that alone are sent more than ``most_tokens``."""
    heavy = (total.support >= min_support) & (total.tokens > most_tokens)
    return [int(item) for item in total.items[heavy]]


def divide(
    total: Costs,
    seconds: Mapping[int, Costs],
    limits: MiningConfig,
    parts: int,
    most_tokens: int,
) -> list[Partition]:
    """Divide the frequent items into partitions that are sent at most ``most_tokens`` each.

    Returns about ``parts`` partitions, more where the bound asks for it and fewer where fewer items
    are frequent; the heaviest first. ``seconds`` holds the costs of the second items of those that
    are too heavy. Raises InputError when a partition cannot be small enough.
    """
    found = []
    for items, cost in _pack(total, limits.min_support, parts, most_tokens):
        if int(items[0]) not in seconds:
            found.append(Partition(Shard(items), cost))
            continue
        after = seconds[int(items[0])]
        if limits.min_length == 1:
            alone = np.array([ALONE], np.int32)
            found.append(Partition(Shard(items), int(after.tokens[0]), alone))
        after = Costs(after.items[1:], after.support[1:], after.tokens[1:])
        for group, load in _pack(after, limits.min_support, 1, most_tokens):
            found.append(Partition(Shard(items), load, group))
    for partition in found:
        if partition.cost > most_tokens:
            needed = _more(limits, partition.cost, most_tokens)
            raise InputError(
                f"the documents of token {partition.shard.items[0]} are too many for "
                f"mining.memory_gb = {limits.memory_gb:g}; raise it to {needed:g}"
            )
    return sorted(found, key=lambda partition: -partition.cost)


def _more(limits: MiningConfig, cost: int, most_tokens: int) -> float:
    """Return the memory that a cost needs, rounded up to two digits."""
    needed = limits.memory_gb * cost / most_tokens
    step = 10.0 ** (math.floor(math.log10(needed)) - 1)
    return round(math.ceil(needed / step) * step, 12)


def _pack(total: Costs, min_support: int, parts: int, most_tokens: int) -> list[tuple[Int32, int]]:
    """Put the frequent items into level groups within a bound; returns items and costs."""
    frequent = np.flatnonzero(total.support >= min_support)
    heaviest_first = frequent[np.argsort(-total.tokens[frequent], kind="stable")]
    loads = [(0, number) for number in range(min(parts, frequent.size))]
    members: list[list[int]] = [[] for _ in loads]
    for item in heaviest_first.tolist():
        cost = int(total.tokens[item])
        load, number = heapq.heappop(loads)
        if load and load + cost > most_tokens:
            heapq.heappush(loads, (load, number))
            load, number = 0, len(members)
            members.append([])
        members[number].append(item)
        heapq.heappush(loads, (load + cost, number))
    return [(total.items[np.sort(members[number])], load) for load, number in sorted(loads)]


def route(corpus: EncodedCorpus, partitions: Sequence[Partition], reach: Reach | None) -> Routed:
    """Return what each partition (at least one) needs of some documents."""
    at, root = _roots(corpus, partitions, reach)
    roots = _Roots.whole(len(partitions), reach)
    for number, partition in enumerate(partitions):
        if reach is not None and partition.seconds is not None:
            roots.join[number] = reach.back
            roots.ahead[number] = reach.back if partition.alone else reach.ahead
    return _windows(corpus, at, root, reach, roots).cut(corpus.tokens)


def _roots(
    corpus: EncodedCorpus, partitions: Sequence[Partition], reach: Reach | None
) -> tuple[Int64, Int64]:
    """Return positions of first items and the partitions that need them."""
    whole = [n for n, partition in enumerate(partitions) if partition.seconds is None]
    items = [partitions[n].shard.items for n in whole]
    at, root = _look_up(corpus.tokens, items, whole)
    places, roots = [at], [root]
    split: dict[int, list[int]] = {}
    for n, partition in enumerate(partitions):
        if partition.seconds is not None:
            split.setdefault(int(partition.shard.items[0]), []).append(n)
    for item, numbers in split.items():
        assert reach is not None
        at, after = _seconds(corpus, np.flatnonzero(corpus.tokens == item), reach)
        seconds = [s for n in numbers if (s := partitions[n].seconds) is not None]
        which, root = _look_up(after, seconds, numbers)
        places.append(at[which])
        roots.append(root)
    return np.concatenate(places), np.concatenate(roots)


def _look_up(tokens: Int32, groups: Sequence[Int32], numbers: Sequence[int]) -> tuple[Int64, Int64]:
    """Return where tokens of the groups stand, and the numbers of their groups."""
    items = np.concatenate([np.empty(0, np.int32), *groups])
    if not items.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(items)
    items = items[order]
    number = np.repeat(np.array(numbers, np.int64), [group.size for group in groups])[order]
    place = np.searchsorted(items, tokens).clip(max=items.size - 1)
    at = np.flatnonzero(items[place] == tokens)
    return at, number[place[at]]


def _seconds(corpus: EncodedCorpus, at: Int64, reach: Reach) -> tuple[Int64, Int32]:
    """Return positions, each once for every item that may come second, and once for ALONE."""
    ends = corpus.offsets[np.searchsorted(corpus.offsets, at, "right")]
    places, items = [at], [np.full(at.size, ALONE, np.int32)]
    for step in range(1, reach.back + 1):
        inside = at[at + step < ends]
        places.append(inside)
        items.append(corpus.tokens[inside + step])
    return np.concatenate(places), np.concatenate(items)


def assemble(tokens: Sequence[Int32], lengths: Sequence[Int64]) -> EncodedCorpus:
    """Return the documents that a partition was sent as a corpus."""
    sizes = np.concatenate([np.empty(0, np.int64), *lengths])
    offsets = np.zeros(sizes.size + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    joined = np.concatenate([np.empty(0, np.int32), *tokens])
    joined[joined == MASKED] = joined.max(initial=-1) + 1  # an id that is no item
    return EncodedCorpus(joined, offsets)


@dataclass(frozen=True, eq=False)
class _Windows:
    """Disjoint pieces of documents, by root (what they are for), document and position."""

    root: Int64  # [n]
    document: Int64  # [n]
    start: Int64  # [n], first position
    stop: Int64  # [n], behind the last
    join: Int64  # [roots], masked places between two windows of a document

    def first_of_document(self) -> npt.NDArray[np.bool_]:
        """Tell for each window whether it is the first of its root and document."""
        first = np.ones(self.root.size, bool)
        first[1:] = (self.root[1:] != self.root[:-1]) | (self.document[1:] != self.document[:-1])
        return first

    def cut(self, tokens: Int32) -> Routed:
        """Cut the windows out, and put those of a document together."""
        first = self.first_of_document()
        sizes = self.stop - self.start
        pads = np.where(first, 0, self.join[self.root])
        begin = np.cumsum(sizes + pads) - sizes
        # Where each place of the result comes from, by steps: this is the largest array by far.
        source = np.ones(int((sizes + pads).sum()), np.int32)
        before = np.zeros(sizes.size, np.int64)
        before[1:] = self.stop[:-1] - 1 + pads[1:]
        source[begin] = self.start - before
        np.cumsum(source, out=source)
        pieces = tokens.take(source, mode="clip")
        masked = np.arange(int(pads.sum())) - np.repeat(np.cumsum(pads) - pads, pads)
        pieces[np.repeat(begin - pads, pads) + masked] = MASKED
        partitions, from_document = np.unique(self.root[first], return_index=True)
        if not partitions.size:
            return Routed(partitions, [], [])
        lengths = np.add.reduceat(sizes + pads, np.flatnonzero(first))
        from_token = begin[first][from_document]
        return Routed(
            partitions, np.split(pieces, from_token[1:]), np.split(lengths, from_document[1:])
        )


def _windows(
    corpus: EncodedCorpus, at: Int64, root: Int64, reach: Reach | None, roots: "_Roots"
) -> _Windows:
    """Return the windows around positions ``at`` [n], which are there for ``root`` [n].

    Where two of them leave out no more than would go between them, they become one.
    """
    order = np.lexsort((at, root))
    at, root = at[order], root[order]
    document = np.searchsorted(corpus.offsets, at, "right") - 1
    start, stop = corpus.offsets[:-1][document], corpus.offsets[1:][document]
    if reach is not None:
        start = np.maximum(start, at - reach.back)
        stop = np.minimum(stop, at + roots.ahead[root] + 1)
    # Starts and stops ascend within a document, so that only neighbours can meet.
    first = np.ones(at.size, bool)
    first[1:] = (root[1:] != root[:-1]) | (document[1:] != document[:-1])
    first[1:] |= start[1:] > stop[:-1] + roots.join[root[1:]]
    last = np.roll(first, -1)
    return _Windows(root[first], document[first], start[first], stop[last], roots.join)


@dataclass(frozen=True, eq=False)
class _Roots:
    """What windows are like: how far they reach, and how many masked places go between two."""

    ahead: Int64  # [roots]
    join: Int64  # [roots]

    @classmethod
    def whole(cls, number: int, reach: Reach | None) -> "_Roots":
        """Return those of first items."""
        return cls(np.full(number, reach.ahead if reach else 0), np.zeros(number, np.int64))

    @classmethod
    def split(cls, alone: npt.NDArray[np.bool_], reach: Reach) -> "_Roots":
        """Return those of second items; a pattern of one item needs its surroundings only."""
        ahead = np.where(alone, reach.back, reach.ahead)
        return cls(ahead, np.full(alone.size, reach.back))
