"""Depth-first search for closed patterns: what both kernels share.

A node of the search is a prefix p1..pn with the places where it ends. Three functions tell the
kernels apart: ``reach`` finds the positions that can follow, ``prunable`` proves that no extension
of the prefix is closed, ``closed_starts`` decides whether the prefix itself is. Nothing here is
allocated per node: places live in an arena that grows with the depth and shrinks on return.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.compilation import allocating, helper, kernel

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Sequences(NamedTuple):
    """The corpus as the kernels see it: frequent items numbered 0.., others -1 in their place."""

    tokens: Int32  # [n_tokens]
    document: Int32  # [n_tokens], document of each position
    begin: Int64  # [n_documents + 1], first position of each document
    next_equal: Int32  # [n_tokens], next position of the same item in the document, else
    # n_tokens or more; empty where no kernel reads it
    items: int  # number of frequent items


class Bounds(NamedTuple):
    """Limits of the search; ``span`` 0 means no limit, ``gap`` is not read without limits.

    ``max_examined`` bounds the positions that the search looks at: the number of patterns alone
    does not bound its time, since prefixes of patterns that are too long can be very many.
    """

    min_support: int
    min_length: int
    max_length: int
    gap: int
    span: int
    max_patterns: int
    max_examined: int


class Roots(NamedTuple):
    """The first items to search, ascending, with the places where each one-item prefix ends."""

    items: Int32  # [n]
    offsets: Int64  # [n + 1], into ends
    ends: Int32  # ascending per item
    notes: npt.NDArray[Any]  # what the kernel keeps per end: latest start, or link to the parent
    support: Int64  # [n]


class Found(NamedTuple):
    """Closed patterns, in lexicographic order of their items."""

    items: Int32
    offsets: Int64
    support: Int64
    starts: Int64
    searched: int  # number of roots done; fewer than there are: a cap was reached


class Work(NamedTuple):
    """Scratch space of the closedness checks.

    ``trail`` holds positions on occurrences (columns POSITION, LATEST, EARLIEST), ``layer`` the
    rows of each item in it. Candidates (slot, item) that may prove a prefix not closed stand in
    ``candidates``, those of slot s at ``slots[s, 0]:slots[s, 1]``.
    """

    trail: Int32  # [capacity, 3]
    layer: Int64  # [longest prefix, 2]
    candidates: Int32  # [capacity]
    slots: Int64  # [longest prefix, 2]
    mark: Int64  # [items], last round in which an item was marked
    round: Int64  # [1]


NO_ROOM = -1  # answer of a check whose scratch space is too small
POSITION, LATEST, EARLIEST = 0, 1, 2
_ITEM, _FROM, _TO, _SUPPORT = 0, 1, 2, 3  # columns of the stack of children
DOCUMENT, DOCUMENTS, POSITIONS, _CURSOR = (
    0,
    1,
    2,
    3,
)  # columns of the tally of next items


@kernel
def count_documents(tokens: Int32, offsets: Int64, n_ids: int) -> Int64:
    """Return in how many documents each id below ``n_ids`` occurs."""
    support = np.zeros(n_ids, np.int64)
    last = np.full(n_ids, -1, np.int64)
    for document in range(offsets.size - 1):
        for position in range(offsets[document], offsets[document + 1]):
            if last[tokens[position]] != document:
                last[tokens[position]] = document
                support[tokens[position]] += 1
    return support


@allocating
def grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return the array, or a copy with room for ``size`` elements and as many again."""
    if array.size >= size:
        return array
    larger = np.empty(2 * size, array.dtype)
    larger[: array.size] = array
    return larger


@allocating
def new_work(room: int, longest: int, items: int) -> Work:
    """Return scratch space for prefixes of up to ``longest`` items."""
    return Work(
        np.empty((room, 3), np.int32),
        np.zeros((longest + 1, 2), np.int64),
        np.empty(room, np.int32),
        np.zeros((longest + 1, 2), np.int64),
        np.zeros(items, np.int64),
        np.zeros(1, np.int64),
    )


@helper
def open_slot(work: Work, slot: int, first: bool) -> None:
    """Start a round for one slot: its surviving candidates are marked and must be seen again.

    The first document has no candidates to confirm: everything it shows becomes one.
    """
    work.round[0] += 2
    if first:
        work.slots[slot, 0] = work.slots[slot - 1, 1] if slot > 0 else 0
    else:
        for i in range(work.slots[slot, 0], work.slots[slot, 1]):
            work.mark[work.candidates[i]] = work.round[0]
    work.slots[slot, 1] = work.slots[slot, 0]


@helper
def see(work: Work, tokens: Int32, begin: int, stop: int, slot: int, first: bool) -> None:
    """Keep the candidates of a slot that stand at positions begin..stop-1."""
    wanted = work.round[0]
    kept = work.slots[slot, 1]
    for position in range(begin, stop):
        item = tokens[position]
        if item >= 0:
            mark = work.mark[item]
            if mark == wanted or (first and mark != wanted + 1):
                work.mark[item] = wanted + 1
                work.candidates[kept] = item
                kept += 1
    work.slots[slot, 1] = kept


@helper
def _frequent(
    tally: Int32,
    touched: Int32,
    n_touched: int,
    least: int,
    support: int,
    frequent: Int32,
) -> tuple[int, bool]:
    """List the items that may follow often enough; tell whether one always follows."""
    n_frequent = 0
    absorbed = False
    for i in range(n_touched):
        documents = tally[touched[i], DOCUMENTS]
        if documents >= least:
            frequent[n_frequent] = touched[i]
            n_frequent += 1
            absorbed = absorbed or documents == support
    return n_frequent, absorbed


@allocating
def _stack(children: Int64, used: int, tally: Int32, frequent: Int32, top: int) -> Int64:
    """Push a child for each frequent item, ascending, and assign its places above ``top``."""
    if children.shape[0] < used + frequent.size:
        larger = np.empty((2 * (used + frequent.size), 4), np.int64)
        larger[:used] = children[:used]
        children = larger
    frequent.sort()
    filled = 0
    for item in frequent:
        tally[item, _CURSOR] = filled
        children[used, _ITEM] = item
        children[used, _FROM] = top + filled
        filled += tally[item, POSITIONS]
        children[used, _TO] = top + filled
        children[used, _SUPPORT] = tally[item, DOCUMENTS]
        used += 1
    return children


@helper
def _scatter(
    tokens: Int32,
    tally: Int32,
    reached: Int32,
    reached_notes: npt.NDArray[Any],
    ends: Int32,
    notes: npt.NDArray[Any],
) -> None:
    """Write the reached positions of frequent items to the places of their children."""
    for i in range(reached.size):
        item = tokens[reached[i]]
        place = tally[item, _CURSOR]
        if place >= 0:
            ends[place] = reached[i]
            notes[place] = reached_notes[i]
            tally[item, _CURSOR] = place + 1


def searcher(
    reach: Callable[..., Any],
    prunable: Callable[..., Any],
    closed_starts: Callable[..., Any],
) -> Any:
    """Return the compiled search of one kernel.

    The search is longer than other functions because it owns every array that grows: a compiled
    helper cannot grow an array of its caller. It is a closure over the kernel's functions since
    numba caches no code that receives functions as arguments.
    """

    @allocating
    def search(sequences: Sequences, bounds: Bounds, roots: Roots) -> Found:
        """Walk the prefix tree below ``roots`` and return its closed patterns."""
        longest = bounds.max_length
        work = new_work(1024, longest, sequences.items)
        pattern = np.empty(longest, np.int32)
        cursor = np.zeros(longest + 1, np.int64)
        limit = np.zeros(longest + 1, np.int64)
        tally = np.zeros((sequences.items, 4), np.int32)
        tally[:, DOCUMENT] = -1
        tally[:, _CURSOR] = -1
        touched = np.empty(sequences.items, np.int32)
        frequent = np.empty(sequences.items, np.int32)
        reached = np.empty(sequences.tokens.size, np.int32)
        reached_notes = np.empty(sequences.tokens.size, roots.notes.dtype)
        ends = roots.ends.copy()
        notes = roots.notes.copy()
        children = np.empty((roots.items.size + 1024, 4), np.int64)
        for i in range(roots.items.size):
            children[i, _ITEM] = roots.items[i]
            children[i, _FROM] = roots.offsets[i]
            children[i, _TO] = roots.offsets[i + 1]
            children[i, _SUPPORT] = roots.support[i]
        limit[0] = roots.items.size
        out_items = np.empty(1024, np.int32)
        out_offsets = np.zeros(1024, np.int64)
        out_support = np.empty(1024, np.int64)
        out_starts = np.empty(1024, np.int64)
        found = 0
        examined = 0
        within_caps = True
        depth = 0
        while depth >= 0 and within_caps:
            node = cursor[depth]
            if node == limit[depth]:
                depth -= 1
                continue
            cursor[depth] += 1
            pattern[depth] = children[node, _ITEM]
            length = depth + 1
            place = (children[node, _FROM], children[node, _TO])
            support = children[node, _SUPPORT]
            n_touched, n_reached = reach(
                sequences,
                bounds,
                ends,
                notes,
                place,
                tally,
                touched,
                reached,
                reached_notes,
            )
            examined += n_reached + place[1] - place[0]
            within_caps = examined <= bounds.max_examined
            n_frequent, absorbed = _frequent(
                tally, touched, n_touched, bounds.min_support, support, frequent
            )
            grows = n_frequent > 0 and length < longest
            if grows:
                verdict = prunable(sequences, bounds, ends, notes, place, pattern, length, work)
                while verdict == NO_ROOM:
                    work = new_work(4 * work.candidates.size, longest, sequences.items)
                    verdict = prunable(sequences, bounds, ends, notes, place, pattern, length, work)
                grows = verdict == 0
                absorbed = absorbed or not grows
            if length >= bounds.min_length and not absorbed:
                starts = closed_starts(sequences, bounds, ends, notes, place, pattern, length, work)
                while starts == NO_ROOM:
                    work = new_work(4 * work.candidates.size, longest, sequences.items)
                    starts = closed_starts(
                        sequences, bounds, ends, notes, place, pattern, length, work
                    )
                if starts > 0 and found == bounds.max_patterns:
                    within_caps = False
                elif starts > 0:
                    begin = out_offsets[found]
                    out_items = grown(out_items, begin + length)
                    out_items[begin : begin + length] = pattern[:length]
                    out_offsets = grown(out_offsets, found + 2)
                    out_offsets[found + 1] = begin + length
                    out_support = grown(out_support, found + 1)
                    out_support[found] = support
                    out_starts = grown(out_starts, found + 1)
                    out_starts[found] = starts
                    found += 1
            if grows:
                used = limit[depth]
                top = children[used - 1, _TO]
                ends = grown(ends, top + n_reached)
                notes = grown(notes, top + n_reached)
                children = _stack(children, used, tally, frequent[:n_frequent], top)
                _scatter(
                    sequences.tokens,
                    tally,
                    reached[:n_reached],
                    reached_notes,
                    ends[top:],
                    notes[top:],
                )
                cursor[length] = used
                limit[length] = used + n_frequent
                depth = length
            for i in range(n_touched):
                tally[touched[i], DOCUMENT] = -1
                tally[touched[i], DOCUMENTS] = 0
                tally[touched[i], POSITIONS] = 0
                tally[touched[i], _CURSOR] = -1
        return Found(
            out_items[: out_offsets[found]].copy(),
            out_offsets[: found + 1].copy(),
            out_support[:found].copy(),
            out_starts[:found].copy(),
            limit[0] if within_caps else cursor[0] - 1,
        )

    return search
