"""The search under a finite gap, with or without a limit on the span.

A prefix keeps *every* position where an occurrence ends, since a later end can reach items that
the first cannot. Under a span limit an end also keeps the latest start of an occurrence that ends
there: no other start allows more. Latest starts never fall from one end to the next, so the
nearest end before a position decides for it.
"""

import numpy as np

from adapt_ray.mining.compilation import helper, kernel
from adapt_ray.mining.search import (
    CURSOR,
    DOCUMENT,
    DOCUMENTS,
    EARLIEST,
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


@helper
def _plant(sequences: Sequences, roots: Roots, root: int, arena: Arena) -> tuple[int, int, int]:
    """List all positions of a root; return their number, the support, and the size of the arena.

    (Or NO_ROOM.)
    """
    first = roots.offsets[root]
    n = roots.offsets[root + 1] - first
    if n > arena.ends.size:
        return NO_ROOM, 0, 0
    document = -1
    support = 0
    for i in range(n):
        position = roots.positions[first + i]
        if document < 0 or position >= sequences.begin[document + 1]:
            document = document_of(sequences.begin, position, max(document, 0))
            support += 1
        arena.ends[i] = position
        arena.notes[i] = position
        arena.documents[i] = document
    return n, support, n


@helper
def _last_reached(
    sequences: Sequences, bounds: Bounds, arena: Arena, i: int, place: tuple[int, int]
) -> int:
    """Return the last position that follows an end and no later end."""
    end = arena.ends[i]
    last = min(end + 1 + bounds.gap, sequences.begin[arena.documents[i] + 1] - 1)
    if i + 1 < place[1]:
        last = min(last, arena.ends[i + 1])
    if bounds.span > 0:
        last = min(last, arena.notes[i] + bounds.span - 1)
    return int(last)


@helper
def _reach(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    tally: Int32,
    touched: Int32,
) -> tuple[int, int]:
    """Count the documents and positions in which each item can follow an end.

    Returns the items, and the positions, which is the room to spread.
    """
    n_touched = 0
    n_reached = 0
    for i in range(place[0], place[1]):
        document = arena.documents[i]
        last = _last_reached(sequences, bounds, arena, i, place)
        for position in range(arena.ends[i] + 1, last + 1):
            item = sequences.tokens[position]
            if item < 0:
                continue
            if tally[item, DOCUMENT] != document:
                if tally[item, DOCUMENTS] == 0:
                    touched[n_touched] = item
                    n_touched += 1
                tally[item, DOCUMENT] = document
                tally[item, DOCUMENTS] += 1
            tally[item, PLACES] += 1
            n_reached += 1
    return n_touched, n_reached


@helper
def _spread(
    sequences: Sequences,
    bounds: Bounds,
    arena: Arena,
    place: tuple[int, int],
    tally: Int32,
    filled: int,
) -> int:
    """Write the positions that can follow an end to the places of their children."""
    for i in range(place[0], place[1]):
        last = _last_reached(sequences, bounds, arena, i, place)
        for position in range(arena.ends[i] + 1, last + 1):
            item = sequences.tokens[position]
            if item >= 0:
                end = tally[item, CURSOR]
                if end >= 0:
                    arena.ends[end] = position
                    arena.notes[end] = arena.notes[i]
                    arena.documents[end] = arena.documents[i]
                    tally[item, CURSOR] = end + 1
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
    document, in the same slot of a valid occurrence that stays valid with it.
    """
    starts = 0
    survivors = True
    i = place[0]
    while i < place[1]:
        document = arena.documents[i]
        stop = i + 1
        while stop < place[1] and arena.documents[stop] == document:
            stop += 1
        if not _trace(sequences, bounds.gap, arena, i, stop, pattern, length, -1, work):
            return NO_ROOM
        starts += _count_starts(work, bounds.span)
        if survivors:
            survivors = _survivors(
                sequences,
                document,
                bounds.gap,
                bounds.span,
                length,
                0,
                i == place[0],
                support,
                work,
            )
            if not survivors and not bounds.count_starts:
                return 1
        i = stop
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
    """Return 1 when some item stands in one slot of an occurrence at *every* end, else 0.

    (BackScan; or NO_ROOM.)

    Then every extension of the prefix has it too, and none is closed. The first end alone does not
    prove that: an extension may need a later one. Under a span limit the enriched occurrence must
    be as narrow as the narrowest that ends there, which rules out items before the first.
    """
    first_slot = 1 if bounds.span > 0 else 0
    for i in range(place[0], place[1]):
        start = arena.notes[i] if bounds.span > 0 else -1
        if not _trace(sequences, bounds.gap, arena, i, i + 1, pattern, length, start, work):
            return NO_ROOM
        if not _survivors(
            sequences,
            arena.documents[i],
            bounds.gap,
            0,
            length,
            first_slot,
            i == place[0],
            support,
            work,
        ):
            return 0
    return 1


@helper
def _count_starts(work: Work, span: int) -> int:
    first, last = work.layer[0, 0], work.layer[0, 1]
    if span == 0:
        return int(last - first)
    starts = 0
    for i in range(first, last):
        if work.trail[i, EARLIEST] - work.trail[i, POSITION] < span:
            starts += 1
    return starts


@helper
def _trace(
    sequences: Sequences,
    gap: int,
    arena: Arena,
    from_end: int,
    to_end: int,
    pattern: Int32,
    length: int,
    start: int,
    work: Work,
) -> bool:
    """Find all positions on occurrences that end at given ends of one document.

    Layer i of the trail then holds the ascending positions of item i that lie on a complete chain
    under the gap limit, each with the latest start and the earliest end of a chain through it.
    With ``start`` >= 0 only chains from that position count. The span limit is not looked at.
    Returns False when the work space is too small.
    """
    trail = work.trail
    layer = work.layer
    if trail.shape[0] < to_end - from_end:
        return False
    for i in range(from_end, to_end):
        trail[i - from_end, POSITION] = arena.ends[i]
        trail[i - from_end, EARLIEST] = arena.ends[i]
    layer[length - 1, 0] = 0
    layer[length - 1, 1] = to_end - from_end
    begin = sequences.begin[arena.documents[from_end]]
    for i in range(length - 2, -1, -1):
        if not _layer_before(sequences.tokens, gap, begin, pattern[i], trail, layer, i):
            return False
    if start >= 0:
        _only(trail, layer, start)
    for i in range(layer[0, 0], layer[0, 1]):
        trail[i, LATEST] = trail[i, POSITION]
    for i in range(1, length):
        _keep_connected(gap, trail, layer, i)
    room = 0
    for i in range(length):
        first, last = layer[i, 0], layer[i, 1]
        room += min((last - first) * (gap + 1), trail[last - 1, POSITION] + 1 - begin)
    return work.candidates.size >= room


@helper
def _layer_before(
    tokens: Int32, gap: int, begin: int, item: int, trail: Int32, layer: Int64, i: int
) -> bool:
    """Write layer i: positions of ``item`` within reach before a position of layer i + 1."""
    first, last = layer[i + 1, 0], layer[i + 1, 1]
    if trail.shape[0] < last + min((last - first) * (gap + 1), trail[last - 1, POSITION] - begin):
        return False
    filled = last
    unseen = begin
    for row in range(first, last):
        after = trail[row, POSITION]
        for position in range(max(after - 1 - gap, unseen), after):
            if tokens[position] == item:
                trail[filled, POSITION] = position
                trail[filled, EARLIEST] = trail[row, EARLIEST]
                filled += 1
        unseen = after
    layer[i, 0] = last
    layer[i, 1] = filled
    return True


@helper
def _only(trail: Int32, layer: Int64, start: int) -> None:
    """Reduce layer 0 to one position (which it holds)."""
    row = layer[0, 0]
    while trail[row, POSITION] != start:
        row += 1
    layer[0, 0] = row
    layer[0, 1] = row + 1


@helper
def _keep_connected(gap: int, trail: Int32, layer: Int64, i: int) -> None:
    """Drop what layer i - 1 does not reach; pass on the latest start from the nearest before."""
    kept, last = layer[i, 0], layer[i, 1]
    before, before_last = layer[i - 1, 0], layer[i - 1, 1]
    for row in range(kept, last):
        position = trail[row, POSITION]
        while before + 1 < before_last and trail[before + 1, POSITION] < position:
            before += 1
        if position - 1 - gap <= trail[before, POSITION] < position:
            trail[kept, POSITION] = position
            trail[kept, EARLIEST] = trail[row, EARLIEST]
            trail[kept, LATEST] = trail[before, LATEST]
            kept += 1
    layer[i, 1] = kept


@helper
def _survivors(
    sequences: Sequences,
    document: int,
    gap: int,
    span: int,
    length: int,
    first_slot: int,
    first: bool,
    support: int,
    work: Work,
) -> bool:
    """Confirm the candidates of every slot on the trail; tell whether any is left.

    ``first``: there are none yet, and everything on this trail becomes one. ``span`` 0: all chains
    of the trail are valid occurrences.
    """
    if first:
        work.slots[0, 0] = 0
        work.slots[0, 1] = 0
    survivors = 0
    for slot in range(first_slot, length):
        if first or work.slots[slot, 0] < work.slots[slot, 1]:
            open_slot(work, slot, first)
            if slot == 0:
                _see_before(sequences, document, gap, span, first, support, work)
            else:
                _see_between(sequences, gap, span, slot, first, support, work)
            survivors += work.slots[slot, 1] - work.slots[slot, 0]
    return survivors > 0


@helper
def _see_before(
    sequences: Sequences,
    document: int,
    gap: int,
    span: int,
    first: bool,
    support: int,
    work: Work,
) -> None:
    """Show the positions that can precede the first item of an occurrence."""
    unseen = sequences.begin[document]
    for i in range(work.layer[0, 0], work.layer[0, 1]):
        start = work.trail[i, POSITION]
        least = max(start - 1 - gap, unseen)
        if span > 0:
            least = max(least, work.trail[i, EARLIEST] + 1 - span)
        see(work, sequences, least, start, 0, first, support)
        unseen = start


@helper
def _see_between(
    sequences: Sequences, gap: int, span: int, slot: int, first: bool, support: int, work: Work
) -> None:
    """Show the positions between items slot - 1 and slot of an occurrence.

    For each later item the earliest partner spans all that the others do. Partners must lie within
    the gap, and the narrowest occurrence through both within the span; both bounds only rise.
    """
    trail = work.trail
    left, left_last = work.layer[slot - 1, 0], work.layer[slot - 1, 1]
    unseen = np.int64(0)
    for i in range(work.layer[slot, 0], work.layer[slot, 1]):
        right = trail[i, POSITION]
        least = right - 1 - gap
        least_start = trail[i, EARLIEST] + 1 - span if span > 0 else np.int64(0)
        while left < left_last and (
            trail[left, POSITION] < least or trail[left, LATEST] < least_start
        ):
            left += 1
        if left < left_last and trail[left, POSITION] < right:
            begin = max(trail[left, POSITION] + 1, unseen)
            see(work, sequences, begin, right, slot, first, support)
            unseen = right


_walk = walker(_plant, _reach, _spread, _closed, _prunable)


@kernel
def walk_gapped(
    sequences: Sequences, bounds: Bounds, roots: Roots, space: Space, path: Path, stop: Int64
) -> int:
    """Go on with a search: see :func:`adapt_ray.mining.search.search`."""
    return int(_walk(sequences, bounds, roots, space, path, stop))
