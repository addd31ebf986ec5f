"""Where sequences occur: the search behind the choice of tokens and their description.

The nearest occurrence from a start takes, item by item, the first position from which the rest can
still be reached. Positions that led nowhere are remembered for the start at hand: under a gap the
ways to reach one grow with the length of the sequence, its positions do not.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.compilation import helper, kernel

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Occurrences(NamedTuple):
    """A corpus, sequences, and what says where an occurrence may lie."""

    tokens: Int32  # [n_tokens]
    document: Int32  # [n_tokens], number of the document that holds each token
    document_end: Int64  # [n_documents]
    starts: Int32  # positions where a sequence may start, those of one first item together
    starts_begin: Int64  # [n_sequences], first of the sequence's places in ``starts``
    starts_end: Int64  # [n_sequences]
    items: Int32  # [sum of lengths], items of all sequences one after the other
    offsets: Int64  # [n_sequences + 1], first item of each sequence
    gap: int  # most foreign tokens between neighbours, -1 without limit
    span: int  # widest occurrence, both ends counted, 0 without limit
    trail: Int64  # [longest], work: positions of an occurrence
    dead: Int64  # [longest, reach], work: at which call an item at a distance led nowhere


@helper
def _nearest(find: Occurrences, begin: int, length: int, start: int, call: int) -> bool:
    """Write the nearest occurrence of ``length`` items from ``start`` into the trail, if any."""
    end = find.document_end[find.document[start]]
    if find.span > 0:
        end = min(end, start + find.span)
    find.trail[0] = start
    i = 1
    if length > 1:
        find.trail[1] = start
    while 0 < i < length:
        wanted = find.items[begin + i]
        at = find.trail[i] + 1
        stop = end if find.gap < 0 else min(end, find.trail[i - 1] + find.gap + 2)
        while at < stop and (
            find.tokens[at] != wanted or (find.gap >= 0 and find.dead[i, at - start] == call)
        ):
            at += 1
        if at < stop:
            find.trail[i] = at
            i += 1
            if i < length:
                find.trail[i] = at
        elif find.gap < 0:
            return False  # without a gap limit another way would not reach further
        else:
            i -= 1
            find.dead[i, find.trail[i] - start] = call
    return bool(i == length)


@kernel
def choose(
    find: Occurrences, order: Int64, least_apart: int, most: int, room: int
) -> tuple[Int64, int]:
    """Return the sequences to take, in the given order, and the positions where they start.

    A sequence is passed over unless ``least_apart`` documents hold an occurrence that shares no
    token with those of the sequences taken before. The choice ends with ``most`` sequences, or
    before the first one with which more than ``room`` positions would have a start.
    """
    taken = np.empty(min(most, order.size), np.int64)
    covered = np.zeros(find.tokens.size, np.bool_)
    started = np.zeros(find.tokens.size, np.bool_)
    n_taken = 0
    n_started = 0
    call = 0
    for sequence in order:
        if n_taken == most:
            break
        begin = find.offsets[sequence]
        length = find.offsets[sequence + 1] - begin
        starts = find.starts[find.starts_begin[sequence] : find.starts_end[sequence]]
        apart = 0
        latest = -1
        new = 0
        for start in starts:
            call += 1
            if not _nearest(find, begin, length, start, call):
                continue
            new += not started[start]
            shares = False
            for i in range(length):
                shares = shares or covered[find.trail[i]]
            if not shares and find.document[start] != latest:
                latest = find.document[start]
                apart += 1
        if apart < least_apart:
            continue
        if n_started + new > room:
            break
        for start in starts:
            call += 1
            if _nearest(find, begin, length, start, call):
                started[start] = True
                for i in range(length):
                    covered[find.trail[i]] = True
        taken[n_taken] = sequence
        n_taken += 1
        n_started += new
    return taken[:n_taken], n_started


@kernel
def locate(find: Occurrences, most: int) -> tuple[Int64, Int64]:
    """Return up to ``most`` occurrences of each sequence, the first one of a document each.

    They come as numbers of sequences [n], ascending, and positions [n, longest sequence], of which
    a shorter sequence fills the first.
    """
    room = 1024
    number = np.empty(room, np.int64)
    positions = np.zeros((room, find.trail.size), np.int64)
    n = 0
    call = 0
    for sequence in range(find.offsets.size - 1):
        begin = find.offsets[sequence]
        length = find.offsets[sequence + 1] - begin
        latest = -1
        left = most
        for start in find.starts[find.starts_begin[sequence] : find.starts_end[sequence]]:
            if left == 0:
                break
            call += 1
            if find.document[start] == latest or not _nearest(find, begin, length, start, call):
                continue
            if n == number.size:
                number = np.concatenate((number, np.empty_like(number)))
                positions = np.concatenate((positions, np.zeros_like(positions)))
            latest = find.document[start]
            left -= 1
            number[n] = sequence
            positions[n] = find.trail
            n += 1
    return number[:n], positions[:n]


@helper
def _narrow(find: Occurrences, low: int, high: int, depth: int, token: int) -> tuple[int, int]:
    """Return which of the sequences low to high - 1 have a token at a depth; all are longer."""
    begin, stop = low, high
    while begin < stop:
        middle = (begin + stop) // 2
        if find.items[find.offsets[middle] + depth] < token:
            begin = middle + 1
        else:
            stop = middle
    end, stop = begin, high
    while end < stop:
        middle = (end + stop) // 2
        if find.items[find.offsets[middle] + depth] == token:
            end = middle + 1
        else:
            stop = middle
    return begin, end


@helper
def _known(states: Int64, n_states: int, low: int, at: int) -> bool:
    """Tell whether the state that begins with sequence ``low``, at a position, is there already."""
    i = 0
    while i < n_states and (states[i, 0] != low or (states[i, 2] != at and at >= 0)):
        i += 1
    return bool(i < n_states)


@kernel
def count_classes(find: Occurrences, weights: Float64) -> Float64:
    """Return for each sequence the weights [n_documents, n_classes] of its documents, summed.

    The sequences must be different and in lexicographic order: those with one prefix then are
    neighbours, and a walk from each position of the corpus narrows them down item by item. A state
    of the walk is a range of sequences and where the last item of their prefix lies.
    """
    n_sequences = find.offsets.size - 1
    sums = np.zeros((n_sequences, weights.shape[1]), np.float64)
    latest = np.full(n_sequences, -1, np.int64)
    here = np.empty((64, 3), np.int64)
    there = np.empty((64, 3), np.int64)
    for start in range(find.tokens.size):
        document = find.document[start]
        end = find.document_end[document]
        if find.span > 0:
            end = min(end, start + find.span)
        here[0, 0], here[0, 1] = _narrow(find, 0, n_sequences, 0, find.tokens[start])
        here[0, 2] = start
        n_here = 1 if here[0, 0] < here[0, 1] else 0
        depth = 0
        while n_here > 0:
            depth += 1
            n_there = 0
            for state in range(n_here):
                low, high, at = here[state]
                if find.offsets[low + 1] - find.offsets[low] == depth:  # the prefix itself
                    if latest[low] != document:
                        latest[low] = document
                        sums[low] += weights[document]
                    low += 1
                stop = end if find.gap < 0 else min(end, at + find.gap + 2)
                for following in range(at + 1, stop if low < high else at):
                    left, right = _narrow(find, low, high, depth, find.tokens[following])
                    # Without a gap limit the first position allows all that later ones do.
                    place = -1 if find.gap < 0 else following
                    if left == right or _known(there, n_there, left, place):
                        continue
                    if n_there == there.shape[0]:
                        there = np.concatenate((there, np.empty_like(there)))
                    there[n_there] = left, right, following
                    n_there += 1
            here, there = there, here
            n_here = n_there
    return sums


def occurrences(
    tokens: Int32,
    documents: Int64,
    items: Int32,
    offsets: Int64,
    max_gap: int | None,
    max_span: int | None,
) -> Occurrences:
    """Index a corpus for sequences of at least one item.

    ``documents`` [n_documents + 1] and ``offsets`` [n_sequences + 1] are the first tokens of
    documents and the first items of sequences.
    """
    lengths = np.diff(documents)
    longest = int(lengths.max(initial=0))
    longest_sequence = int(np.diff(offsets).max(initial=1))
    gap = -1 if max_gap is None or max_gap >= longest else max_gap
    reach = 1 if gap < 0 else min(longest, (longest_sequence - 1) * (gap + 1) + 1)
    starts = np.argsort(tokens, kind="stable").astype(np.int32)
    first_items = items[offsets[:-1]]
    ordered = tokens[starts]
    return Occurrences(
        tokens=np.array(tokens, np.int32),  # copies: kernels are compiled for writable arrays
        document=np.repeat(np.arange(lengths.size, dtype=np.int32), lengths),
        document_end=np.array(documents[1:], np.int64),
        starts=starts,
        starts_begin=np.searchsorted(ordered, first_items, "left"),
        starts_end=np.searchsorted(ordered, first_items, "right"),
        items=np.array(items, np.int32),
        offsets=np.array(offsets, np.int64),
        gap=gap,
        span=max_span or 0,
        trail=np.zeros(longest_sequence, np.int64),
        dead=np.zeros((longest_sequence, max(reach, 1)), np.int64),
    )
