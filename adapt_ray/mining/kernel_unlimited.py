"""The search without limits on gap and span (BIDE, Wang and Han 2004).

One end per supporting document is enough here: the first, which reaches everything that any other
does. A link to the same document's entry in the parent leads back to the first positions of all
items; their last positions are found by hopping along equal items, without reading the text.
"""

import numpy as np

from adapt_ray.mining.compilation import allocating, helper, kernel
from adapt_ray.mining.search import (
    DOCUMENT,
    DOCUMENTS,
    LATEST,
    NO_ROOM,
    POSITION,
    POSITIONS,
    Bounds,
    Found,
    Int32,
    Int64,
    Roots,
    Sequences,
    Work,
    open_slot,
    searcher,
    see,
)


@allocating
def _next_equal(sequences: Sequences) -> Int32:
    n = sequences.tokens.size
    following = np.full(n, n, np.int32)
    later = np.full(sequences.items, n, np.int32)
    for position in range(n - 1, -1, -1):
        item = sequences.tokens[position]
        document = sequences.document[position]
        if later[item] < sequences.begin[document + 1]:
            following[position] = later[item]
        later[item] = position
    return following


@helper
def _reach(
    sequences: Sequences,
    bounds: Bounds,
    ends: Int32,
    links: Int64,
    place: tuple[int, int],
    tally: Int32,
    touched: Int32,
    reached: Int32,
    reached_links: Int64,
) -> tuple[int, int]:
    """List each document's first position of every item after the end, and count documents."""
    n_touched = 0
    n_reached = 0
    for i in range(place[0], place[1]):
        document = sequences.document[ends[i]]
        for position in range(ends[i] + 1, sequences.begin[document + 1]):
            item = sequences.tokens[position]
            if tally[item, DOCUMENT] != document:
                if tally[item, DOCUMENTS] == 0:
                    touched[n_touched] = item
                    n_touched += 1
                tally[item, DOCUMENT] = document
                tally[item, DOCUMENTS] += 1
                tally[item, POSITIONS] += 1
                reached[n_reached] = position
                reached_links[n_reached] = i
                n_reached += 1
    return n_touched, n_reached


@helper
def _prunable(
    sequences: Sequences,
    bounds: Bounds,
    ends: Int32,
    links: Int64,
    place: tuple[int, int],
    pattern: Int32,
    length: int,
    work: Work,
) -> int:
    """Return 1 when an item stands in one slot before the first end of every document, else 0.

    (BackScan; or NO_ROOM.)"""
    for i in range(place[0], place[1]):
        if _trace(sequences, ends, links, i, length, ends[i] + 1, work) == NO_ROOM:
            return NO_ROOM
        if not _survivors(sequences, length, i == place[0], work):
            return 0
    return 1


@helper
def _closed_starts(
    sequences: Sequences,
    bounds: Bounds,
    ends: Int32,
    links: Int64,
    place: tuple[int, int],
    pattern: Int32,
    length: int,
    work: Work,
) -> int:
    """Return the number of start positions of the pattern, or 0 when it is not closed.

    Not closed: some item stands, in every supporting document, in the same slot between the first
    position of one item and the last of the next.
    """
    starts = 0
    survivors = True
    for i in range(place[0], place[1]):
        after = sequences.begin[sequences.document[ends[i]] + 1]
        more = _trace(sequences, ends, links, i, length, after, work)
        if more == NO_ROOM:
            return NO_ROOM
        starts += more
        if survivors:
            survivors = _survivors(sequences, length, i == place[0], work)
    return 0 if survivors else starts


@helper
def _trace(
    sequences: Sequences,
    ends: Int32,
    links: Int64,
    entry: int,
    length: int,
    after: int,
    work: Work,
) -> int:
    """Find the first and the last position of every item among occurrences that end by ``after``.

    Returns how many positions of the first item start one, or NO_ROOM.
    """
    trail = work.trail
    if trail.shape[0] < length:
        return NO_ROOM
    for item in range(length - 1, -1, -1):
        trail[item, POSITION] = ends[entry]
        entry = links[entry]
    room = 0
    starts = 0
    for item in range(length - 1, -1, -1):
        position = trail[item, POSITION]
        starts = 1
        while sequences.next_equal[position] < after:
            position = sequences.next_equal[position]
            starts += 1
        trail[item, LATEST] = position
        after = position
        room += position - (trail[item - 1, POSITION] if item > 0 else 0)
    begin = sequences.begin[sequences.document[trail[0, POSITION]]]
    return NO_ROOM if work.candidates.size < room - begin else starts


@helper
def _survivors(sequences: Sequences, length: int, first: bool, work: Work) -> bool:
    """Confirm the candidates of every slot in one document; tell whether any is left.

    ``first``: there are none yet, and everything in this document becomes one.
    """
    survivors = 0
    begin = sequences.begin[sequences.document[work.trail[0, POSITION]]]
    for slot in range(length):
        if first or work.slots[slot, 0] < work.slots[slot, 1]:
            open_slot(work, slot, first)
            see(work, sequences.tokens, begin, work.trail[slot, LATEST], slot, first)
            survivors += work.slots[slot, 1] - work.slots[slot, 0]
        begin = work.trail[slot, POSITION] + 1
    return survivors > 0


_search = searcher(_reach, _prunable, _closed_starts)


@kernel
def mine_unlimited(sequences: Sequences, bounds: Bounds, roots: Roots) -> Found:
    """Return the closed patterns whose first item is a root (one end a document, notes: -1).

    Tokens must hold frequent items only.
    """
    sequences = Sequences(
        sequences.tokens,
        sequences.document,
        sequences.begin,
        _next_equal(sequences),
        sequences.items,
    )
    found: Found = _search(sequences, bounds, roots)
    return found
