"""Depth-first search for closed patterns: what both kernels share.

A node of the search is a prefix p1..pn with the places where it ends. Five functions tell the
kernels apart: ``plant`` lists the places of a one-item prefix, ``reach`` counts the items that can
follow, ``spread`` lists the places of the children, ``closed`` decides whether the prefix is a
result, ``prunable`` proves that no extension of it is. Nothing here is allocated per node: places
live in an arena that grows with the depth and shrinks on return.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.compilation import helper

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Sequences(NamedTuple):
    """The corpus as the kernels see it: frequent items numbered 0.., others -1 in their place."""

    tokens: Int32  # [n_tokens]
    begin: Int64  # [n_documents + 1], first position of each document
    vocabulary: Int32  # [items], the ids behind the numbers
    support: Int64  # [items], documents with each item
    next_equal: Int32  # [n_tokens], next position of the same item in the document, else
    # n_tokens or more; empty where no kernel reads it


class Bounds(NamedTuple):
    """Limits of the search; ``span`` 0 means no limit, ``gap`` is not read without limits.

    Of the items that follow a root, only those at index ``part`` modulo ``parts`` are searched (the
    two-item split of a heavy first item); the root itself belongs to part 0.
    """

    min_support: int
    min_length: int
    max_length: int
    gap: int
    span: int
    part: int
    parts: int
    count_starts: bool
    max_patterns: int
    max_bytes: int


class Roots(NamedTuple):
    """The first items to search, ascending, with all their positions."""

    items: Int32  # [n]
    offsets: Int64  # [n + 1], into positions
    positions: Int32  # ascending per item


class Found(NamedTuple):
    """Closed patterns, in lexicographic order of their items."""

    items: Int32
    offsets: Int64
    support: Int64
    starts: Int64  # zeros where they are not counted
    searched: int  # number of roots done; fewer than there are: a cap was reached
    cap: int  # which one


class Arena(NamedTuple):
    """Places of prefixes along the current path of the search, three columns."""

    ends: Int32  # where the prefix ends
    notes: Int32  # what the kernel keeps per end: latest start, or link to the parent
    documents: Int32  # the end's document


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


class Out(NamedTuple):
    """Patterns found so far; columns of :class:`Found` with room at the end."""

    items: Int32
    offsets: Int64
    support: Int64
    starts: Int64


class Space(NamedTuple):
    """All memory of a search."""

    tally: Int32  # [items, 4]
    touched: Int32  # [items], items with a tally
    frequent: Int32  # [items]
    children: Int64  # [capacity, 4], a stack
    arena: Arena
    work: Work
    out: Out


class Path(NamedTuple):
    """Where the walk stands."""

    pattern: Int32  # [longest prefix]
    cursor: Int64  # [longest prefix + 1], next of the children of each depth
    limit: Int64  # [longest prefix + 1], end of these children
    top: Int64  # [longest prefix + 1], where the arena is free for their children
    depth: Int64  # [1], -1: at no root
    root: Int64  # [1], index of the present root
    found: Int64  # [1], patterns


# What ends a walk: nothing, a cap, a part of the space that is too small.
DONE, CAP_PATTERNS, CAP_BYTES, STOPPED = 0, 1, 2, 3
ARENA_FULL, WORK_FULL, CHILDREN_FULL, ITEMS_FULL, OUT_FULL = 4, 5, 6, 7, 8
NO_ROOM = -1  # answer of a function whose scratch space is too small
POSITION, LATEST, EARLIEST = 0, 1, 2
DOCUMENT, DOCUMENTS, PLACES, CURSOR = 0, 1, 2, 3  # columns of the tally of next items
_ITEM, _FROM, _TO, _SUPPORT = 0, 1, 2, 3  # columns of the stack of children


@helper
def _room(space: Space, found: int, length: int, arena: int, children: int) -> int:
    """Tell which array is too small for one more node, or DONE."""
    if space.arena.ends.size < arena:
        return ARENA_FULL
    if space.children.shape[0] < children:
        return CHILDREN_FULL
    out = space.out
    if out.support.size < found + 2:
        return OUT_FULL
    if out.items.size < out.offsets[found] + length:
        return ITEMS_FULL
    return DONE


@helper
def _record(
    out: Out, vocabulary: Int32, path: Path, length: int, support: int, starts: int
) -> None:
    """Write down the prefix as a pattern."""
    n = path.found[0]
    begin = out.offsets[n]
    for i in range(length):
        out.items[begin + i] = vocabulary[path.pattern[i]]
    out.offsets[n + 1] = begin + length
    out.support[n] = support
    out.starts[n] = starts
    path.found[0] = n + 1


@helper
def _start(path: Path, children: Int64, item: int, n_ends: int, support: int, filled: int) -> None:
    """Put a root on the path, its places at the bottom of the arena."""
    children[0, _ITEM] = item
    children[0, _FROM] = 0
    children[0, _TO] = n_ends
    children[0, _SUPPORT] = support
    path.cursor[0] = 0
    path.limit[0] = 1
    path.top[0] = filled
    path.depth[0] = 0


@helper
def document_of(begin: Int64, position: int, low: int) -> int:
    """Return the document of a position, which is ``low`` or a later one."""
    step = 1
    high = low + 1
    while high < begin.size - 1 and begin[high] <= position:
        low = high
        step *= 2
        high = min(low + step, begin.size - 1)
    while high - low > 1:
        middle = (low + high) // 2
        if begin[middle] <= position:
            low = middle
        else:
            high = middle
    return low


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
def see(
    work: Work, sequences: Sequences, begin: int, stop: int, slot: int, first: bool, least: int
) -> None:
    """Keep the candidates of a slot that stand at positions begin..stop-1.

    An item in fewer than ``least`` documents stands in the slot of too few.
    """
    wanted = work.round[0]
    kept = work.slots[slot, 1]
    for position in range(begin, stop):
        item = sequences.tokens[position]
        if item >= 0:
            mark = work.mark[item]
            if mark == wanted or (
                first and mark != wanted + 1 and sequences.support[item] >= least
            ):
                work.mark[item] = wanted + 1
                work.candidates[kept] = item
                kept += 1
    work.slots[slot, 1] = kept


@helper
def _frequent(
    tally: Int32, touched: Int32, n_touched: int, least: int, support: int, frequent: Int32
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


@helper
def _sort(values: Int32, n: int) -> None:
    """Sort the first ``n`` in place (Shell sort; numpy's allocates, and mostly they are few)."""
    step = 1
    while step < n // 3:
        step = 3 * step + 1
    while step > 0:
        for i in range(step, n):
            value = values[i]
            k = i
            while k >= step and values[k - step] > value:
                values[k] = values[k - step]
                k -= step
            values[k] = value
        step //= 3


@helper
def _only_part(frequent: Int32, n_frequent: int, part: int, parts: int) -> int:
    kept = 0
    for i in range(part, n_frequent, parts):
        frequent[kept] = frequent[i]
        kept += 1
    return kept


@helper
def _stack(
    children: Int64, used: int, tally: Int32, frequent: Int32, n_frequent: int, top: int
) -> int:
    """Push a child for each item and assign its places from ``top``; return where they end."""
    filled = top
    for i in range(n_frequent):
        item = frequent[i]
        tally[item, CURSOR] = filled
        children[used + i, _ITEM] = item
        children[used + i, _FROM] = filled
        filled += tally[item, PLACES]
        children[used + i, _TO] = filled
        children[used + i, _SUPPORT] = tally[item, DOCUMENTS]
    return filled


@helper
def _wipe(tally: Int32, touched: Int32, n_touched: int) -> None:
    for i in range(n_touched):
        tally[touched[i], DOCUMENT] = -1
        tally[touched[i], DOCUMENTS] = 0
        tally[touched[i], PLACES] = 0
        tally[touched[i], CURSOR] = -1


def walker(
    plant: Callable[..., Any],
    reach: Callable[..., Any],
    spread: Callable[..., Any],
    closed: Callable[..., Any],
    prunable: Callable[..., Any],
) -> Any:
    """Return the compiled walk of one kernel.

    It is a closure over the kernel's functions since numba caches no code that receives functions
    as arguments. It allocates nothing: where an array is too small it says which, and does the node
    at hand again when it is called with a larger one.
    """

    @helper
    def visit(sequences: Sequences, bounds: Bounds, space: Space, path: Path) -> int:
        """Search one node and put its children on the path; DONE, or why not."""
        tally, touched, frequent = space.tally, space.touched, space.frequent
        arena, work = space.arena, space.work
        depth = path.depth[0]
        node = path.cursor[depth]
        path.pattern[depth] = space.children[node, _ITEM]
        length = depth + 1
        place = (space.children[node, _FROM], space.children[node, _TO])
        support = space.children[node, _SUPPORT]
        n_touched, needed = reach(sequences, bounds, arena, place, tally, touched)
        n_frequent, absorbed = _frequent(
            tally, touched, n_touched, bounds.min_support, support, frequent
        )
        used = path.limit[depth]
        answer = _room(space, path.found[0], length, path.top[depth] + needed, used + n_frequent)
        starts = 0
        if answer == DONE and length >= bounds.min_length and not absorbed:
            starts = closed(sequences, bounds, arena, place, path.pattern, length, support, work)
            if starts == NO_ROOM:
                answer = WORK_FULL
        grows = n_frequent > 0 and length < bounds.max_length
        if answer == DONE and grows and starts == 0:
            # What proves that no extension is closed proves it of the prefix too, so a closed
            # prefix is not asked.
            verdict = prunable(sequences, bounds, arena, place, path.pattern, length, support, work)
            if verdict == NO_ROOM:
                answer = WORK_FULL
            grows = verdict == 0
        if answer == DONE and starts > 0 and (length > 1 or bounds.part == 0):
            if path.found[0] == bounds.max_patterns:
                answer = CAP_PATTERNS
            else:
                _record(space.out, sequences.vocabulary, path, length, support, starts)
        if answer == DONE:
            path.cursor[depth] += 1
            if grows:
                _sort(frequent, n_frequent)
                if depth == 0:
                    n_frequent = _only_part(frequent, n_frequent, bounds.part, bounds.parts)
                filled = _stack(space.children, used, tally, frequent, n_frequent, path.top[depth])
                path.top[length] = spread(sequences, bounds, arena, place, tally, filled)
                path.cursor[length] = used
                path.limit[length] = used + n_frequent
                path.depth[0] = length
        _wipe(tally, touched, n_touched)
        return answer

    @helper
    def walk(
        sequences: Sequences, bounds: Bounds, roots: Roots, space: Space, path: Path, stop: Int64
    ) -> int:
        """Go on along the path, root after root; return DONE after the last, or why not."""
        while stop[0] == 0:
            depth = path.depth[0]
            if depth < 0:
                root = path.root[0] + 1
                if root == roots.items.size:
                    return DONE
                n_ends, support, filled = plant(sequences, roots, root, space.arena)
                if n_ends == NO_ROOM:
                    return ARENA_FULL
                path.root[0] = root
                _start(path, space.children, roots.items[root], n_ends, support, filled)
            elif path.cursor[depth] == path.limit[depth]:
                path.depth[0] -= 1
            else:
                answer = visit(sequences, bounds, space, path)
                if answer != DONE:
                    return answer
        return STOPPED

    return walk


def search(
    walk: Callable[..., int],
    sequences: Sequences,
    bounds: Bounds,
    groups: Iterable[Roots],
    stop: Int64,
) -> Found:
    """Walk the prefix trees below groups of roots; a ``stop`` that turns 1 ends the search."""
    space = _new_space(sequences.support.size, bounds.max_length)
    found = searched = 0
    answer = DONE
    for roots in groups:
        path = _new_path(bounds.max_length, found)
        answer = walk(sequences, bounds, roots, space, path, stop)
        while answer >= ARENA_FULL:
            space = _larger(space, answer)
            if _bytes(space) > bounds.max_bytes:
                answer = CAP_BYTES
            else:
                answer = walk(sequences, bounds, roots, space, path, stop)
        found = int(path.found[0])
        searched += int(path.root[0]) + (answer == DONE)
        if answer != DONE:
            break
    out = space.out
    _shrink(out.items, int(out.offsets[found]))
    _shrink(out.offsets, found + 1)
    _shrink(out.support, found)
    _shrink(out.starts, found)
    return Found(*out, searched, answer)


def _new_work(room: int, longest: int, items: int) -> Work:
    """Return scratch space for prefixes of up to ``longest`` items."""
    return Work(
        trail=np.empty((room, 3), np.int32),
        layer=np.zeros((longest + 1, 2), np.int64),
        candidates=np.empty(room, np.int32),
        slots=np.zeros((longest + 1, 2), np.int64),
        mark=np.zeros(items, np.int64),
        round=np.zeros(1, np.int64),
    )


_ROOM = 1 << 14  # what everything that grows starts with


def _new_space(items: int, longest: int) -> Space:
    """Return the memory of a search for patterns of ``longest`` of so many different items."""
    tally = np.zeros((items, 4), np.int32)
    tally[:, [DOCUMENT, CURSOR]] = -1
    return Space(
        tally=tally,
        touched=np.empty(items, np.int32),
        frequent=np.empty(items, np.int32),
        children=np.empty((_ROOM, 4), np.int64),
        arena=Arena(*(np.empty(_ROOM, np.int32) for _ in range(3))),
        work=_new_work(_ROOM, longest, items),
        out=Out(np.empty(_ROOM, np.int32), *(np.zeros(_ROOM, np.int64) for _ in range(3))),
    )


def _new_path(longest: int, found: int) -> Path:
    return Path(
        pattern=np.empty(longest, np.int32),
        cursor=np.zeros(longest + 1, np.int64),
        limit=np.zeros(longest + 1, np.int64),
        top=np.zeros(longest + 1, np.int64),
        depth=np.full(1, -1, np.int64),
        root=np.full(1, -1, np.int64),
        found=np.full(1, found, np.int64),
    )


def _larger(space: Space, full: int) -> Space:
    """Return the space with one of its parts larger."""
    if full == ARENA_FULL:
        return space._replace(arena=Arena(*(_grown(column, 1.5) for column in space.arena)))
    if full == CHILDREN_FULL:
        return space._replace(children=_grown(space.children, 2))
    if full == WORK_FULL:
        work = space.work
        room = 4 * work.candidates.size
        return space._replace(work=_new_work(room, work.layer.shape[0] - 1, work.mark.size))
    out = space.out
    if full == ITEMS_FULL:
        return space._replace(out=out._replace(items=_grown(out.items, 2)))
    rows = (_grown(column, 2) for column in (out.offsets, out.support, out.starts))
    return space._replace(out=Out(out.items, *rows))


def _grown(array: npt.NDArray[Any], factor: float) -> npt.NDArray[Any]:
    larger = np.empty((int(factor * array.shape[0]), *array.shape[1:]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


def _shrink(array: npt.NDArray[Any], size: int) -> None:
    """Give back the memory behind the first ``size`` elements, without a copy."""
    array.resize(size, refcheck=False)


def _bytes(space: Space) -> int:
    """Return the size of what grows."""
    return sum(array.nbytes for part in (space.arena, space.out, space.work) for array in part)
