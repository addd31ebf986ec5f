"""The search without limits on gap and span (BIDE, Wang and Han 2004).

One end per supporting document is enough here: the first, which reaches everything that any other
does. Behind it only items matter that follow the *parent* often enough, so every node writes down
what is left of its documents, frequent items only, and its children read that instead of the text:
at usual supports a fifth of it. An end is an index into such a rest. A link to the same document's
entry in the parent leads back to the first positions of all items; their last positions are found
by hopping along equal items.
"""

import numpy as np

from adapt_ray.mining.compilation import helper, kernel
from adapt_ray.mining.search import (
    CURSOR,
    DOCUMENT,
    DOCUMENTS,
    LATEST,
    NO_ROOM,
    PLACES,
    POSITION,
    Arena,
    Bounds,
    Int32,
    Int64,
    Path,
    Roots,
    Sequences,
    Space,
    Work,
    document_of,
    open_slot,
    see,
    walker,
)

_STOP = -1  # stands behind the rest of each document


@kernel
def next_equal(tokens: Int32, begin: Int64, items: int) -> Int32:
    """Return the next position of the same item in the document, else n_tokens [n_tokens].

    Tokens must hold frequent items only.
    """
    n = tokens.size
    following = np.full(n, n, np.int32)
    later = np.full(items, n, np.int32)
    for document in range(begin.size - 2, -1, -1):
        for position in range(begin[document + 1] - 1, begin[document] - 1, -1):
            item = tokens[position]
            if later[item] < begin[document + 1]:
                following[position] = later[item]
            later[item] = position
    return following


@helper
def _plant(sequences: Sequences, roots: Roots, root: int, arena: Arena) -> tuple[int, int, int]:
    """List the first position of a root in every document, and what follows there.

    Returns the number of ends, the support, and the size of the arena; or NO_ROOM.
    """
    document = -1
    n = 0
    for i in range(roots.offsets[root], roots.offsets[root + 1]):
        position = roots.positions[i]
        if document < 0 or position >= sequences.begin[document + 1]:
            document = document_of(sequences.begin, position, max(document, 0))
            if n == arena.ends.size:
                return NO_ROOM, 0, 0
            arena.notes[n] = position  # for the moment
            arena.documents[n] = document
            n += 1
    filled = n
    for i in range(n):
        first = arena.notes[i]
        stop = sequences.begin[arena.documents[i] + 1]
        if filled + stop - first + 1 > arena.ends.size:
            return NO_ROOM, 0, 0
        arena.ends[i] = filled
        arena.notes[i] = -1
        for position in range(first, stop):
            arena.ends[filled] = sequences.tokens[position]
            arena.notes[filled] = position
            filled += 1
        arena.ends[filled] = _STOP
        filled += 1
    return n, n, filled


@helper
def _reach(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    tally: Int32,
    touched: Int32,
) -> tuple[int, int]:
    """Count the documents in which each item follows; return the items and the room to spread.

    The room: an end and an entry of the rest for each token, and what stands behind the rests.
    """
    n_touched = 0
    n_reached = 0
    for i in range(place[0], place[1]):
        k = arena.ends[i] + 1
        n_reached -= k
        item = arena.ends[k]
        while item >= 0:
            if tally[item, DOCUMENT] != i:
                if tally[item, DOCUMENTS] == 0:
                    touched[n_touched] = item
                    n_touched += 1
                tally[item, DOCUMENT] = i
                tally[item, DOCUMENTS] += 1
                tally[item, PLACES] += 1
            k += 1
            item = arena.ends[k]
        n_reached += k
    return n_touched, 2 * n_reached + place[1] - place[0]


@helper
def _spread(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    tally: Int32,
    filled: int,
) -> int:
    """Write the rests of the documents from ``filled``, and the children's ends as indices."""
    for i in range(place[0], place[1]):
        k = arena.ends[i] + 1
        item = arena.ends[k]
        seen = -2 - i
        while item >= 0:
            if tally[item, DOCUMENTS] >= bounds.min_support:
                arena.ends[filled] = item
                arena.notes[filled] = arena.notes[k]
                if tally[item, DOCUMENT] != seen:
                    tally[item, DOCUMENT] = seen
                    end = tally[item, CURSOR]
                    if end >= 0:
                        arena.ends[end] = filled
                        arena.notes[end] = i
                        arena.documents[end] = arena.documents[i]
                        tally[item, CURSOR] = end + 1
                filled += 1
            k += 1
            item = arena.ends[k]
        arena.ends[filled] = _STOP
        filled += 1
    return filled


@helper
def _closed(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    pattern: Int32,
    length: int,
    support: int,
    work: Work,
) -> int:
    """Return the number of start positions of the pattern, or 0 when it is not closed.

    (1 where starts are not counted; or NO_ROOM.) Not closed: some item stands, in every supporting
    document, in the same slot between the first position of one item and the last of the next.
    """
    starts = 0
    survivors = True
    for i in range(place[0], place[1]):
        after = sequences.begin[arena.documents[i] + 1]
        lowest = 0 if bounds.count_starts or i == place[0] else _lowest_slot(work, length)
        more = _trace(sequences, arena, i, length, lowest, after, work)
        if more == NO_ROOM:
            return NO_ROOM
        starts += more
        if survivors:
            survivors = _survivors(
                sequences, arena.documents[i], length, i == place[0], support, work
            )
            if not survivors and not bounds.count_starts:
                return 1
    return 0 if survivors else starts


@helper
def _prunable(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    pattern: Int32,
    length: int,
    support: int,
    work: Work,
) -> int:
    """Return 1 when an item stands in one slot before the first end of every document, else 0.

    (BackScan; or NO_ROOM.)
    """
    for i in range(place[0], place[1]):
        after = arena.notes[arena.ends[i]] + 1
        lowest = 0 if i == place[0] else _lowest_slot(work, length)
        if _trace(sequences, arena, i, length, lowest, after, work) == NO_ROOM:
            return NO_ROOM
        if not _survivors(sequences, arena.documents[i], length, i == place[0], support, work):
            return 0
    return 1


@helper
def _lowest_slot(work: Work, length: int) -> int:
    """Return the first slot that has candidates left, or ``length``."""
    slot = 0
    while slot < length and work.slots[slot, 0] == work.slots[slot, 1]:
        slot += 1
    return slot


@helper
def _trace(
    sequences: Sequences,
    arena: Arena,
    entry: int,
    length: int,
    lowest: int,
    after: int,
    work: Work,
) -> int:
    """Find the first and the last position of items among occurrences that end by ``after``.

    Only what the slots from ``lowest`` on need. Returns how many positions of the lowest of these
    items start an occurrence, or NO_ROOM.
    """
    trail = work.trail
    if trail.shape[0] < length:
        return NO_ROOM
    room = -sequences.begin[arena.documents[entry]]  # of all slots, which overlap
    starts = 0
    for item in range(length - 1, max(lowest, 1) - 2, -1):
        position = arena.notes[arena.ends[entry]]
        entry = arena.notes[entry]
        trail[item, POSITION] = position
        starts = 1
        while sequences.next_equal[position] < after:
            position = sequences.next_equal[position]
            starts += 1
        trail[item, LATEST] = position
        after = position
        room += position - (trail[item, POSITION] if item < length - 1 else 0)
    return NO_ROOM if lowest == 0 and work.candidates.size < room else starts


@helper
def _survivors(
    sequences: Sequences, document: int, length: int, first: bool, support: int, work: Work
) -> bool:
    """Confirm the candidates of every slot in one document; tell whether any is left.

    ``first``: there are none yet, and everything in this document becomes one.
    """
    survivors = 0
    for slot in range(length):
        if first or work.slots[slot, 0] < work.slots[slot, 1]:
            begin = work.trail[slot - 1, POSITION] + 1 if slot else sequences.begin[document]
            open_slot(work, slot, first)
            see(work, sequences, begin, work.trail[slot, LATEST], slot, first, support)
            survivors += work.slots[slot, 1] - work.slots[slot, 0]
    return survivors > 0


_walk = walker(_plant, _reach, _spread, _closed, _prunable)


@kernel
def walk_unlimited(
    sequences: Sequences, bounds: Bounds, roots: Roots, space: Space, path: Path, stop: Int64
) -> int:
    """Go on with a search: see :func:`adapt_ray.mining.search.search`.

    Tokens must hold frequent items only; documents are best in order of their length, since the
    first one supplies the items that may prove a prefix not closed.
    """
    return int(_walk(sequences, bounds, roots, space, path, stop))
