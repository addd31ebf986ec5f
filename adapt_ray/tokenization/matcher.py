"""Which token sequences occur in a text, and where: a trie walked from every position.

All edges of the trie lie in one hash table, so that a step costs the same from every node; most
positions die at the root. Elsewhere the walk keeps states (trie node, position) and visits
each once, since under a gap many ways lead to the same state. Sequences have priorities, and a
branch of the trie that holds nothing better than what was found already is not entered.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.compilation import helper, kernel

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_NO_ROOM = -1
_MIX = 0x1E3779B97F4A7C15  # odd, below 2^63: spreads consecutive keys over a table


class _Trie(NamedTuple):
    """Node 0 is the root. Tables have room for four times the edges, a power of two."""

    keys: Int64  # [room], node and token of the edge that lies there, -1 where none does
    child: Int32  # [room], node that the edge leads to
    rank: Int32  # [n_nodes], best rank of a sequence that ends here, n_sequences when none does
    below: Int32  # [n_nodes], best rank of those that go on from here


class Matcher:
    """Finds, for every position of a text, the best sequence with an occurrence that starts there.

    ``priorities`` [n_sequences]: lower is better, ties go to the earlier sequence. An occurrence
    has at most ``max_gap`` foreign tokens between neighbours and spans at most ``max_span`` tokens
    (None: no limit).
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        priorities: npt.NDArray[np.int64],
        max_gap: int | None,
        max_span: int | None,
    ):
        self._max_gap = max_gap
        self._max_span = max_span
        self._order = np.argsort(priorities, kind="stable").astype(np.int32)
        self._trie = _build([sequences[i] for i in self._order.tolist()])

    def best(self, tokens: Int32, offsets: Int64) -> Int32:
        """Return the index of the best sequence at each position, -1 where none starts.

        ``offsets`` [n_documents + 1] are the first positions of documents, which no occurrence
        crosses.
        """
        longest = int(np.diff(offsets).max(initial=0))
        free = self._max_gap is None or self._max_gap >= longest
        ranks = _match(
            np.array(tokens, np.int32),  # copies: kernels are compiled for writable arrays
            np.array(offsets, np.int64),
            self._trie,
            -1 if free or self._max_gap is None else self._max_gap,
            self._max_span or 0,
        )
        return np.append(self._order, np.int32(-1)).astype(np.int32)[ranks]


def _build(sequences: Sequence[Sequence[int]]) -> _Trie:
    """Lay out the trie of sequences in order of rank."""
    edges: dict[tuple[int, int], int] = {}
    rank, below = [len(sequences)], [len(sequences)]
    for number, sequence in enumerate(sequences):
        node = 0
        for token in sequence:
            below[node] = min(below[node], number)
            node = edges.setdefault((node, token), len(rank))
            if node == len(rank):
                rank.append(len(sequences))
                below.append(len(sequences))
        rank[node] = min(rank[node], number)
    keys, child = _table(
        np.array([node for node, _ in edges], np.int64),
        np.array([token for _, token in edges], np.int32),
        np.array(list(edges.values()), np.int32),
    )
    return _Trie(keys, child, np.array(rank, np.int32), np.array(below, np.int32))


@helper
def _place(key: int, mask: int) -> int:
    """Return where to look first for a key."""
    mixed = key * _MIX
    return (mixed ^ (mixed >> 32)) & mask


@helper
def _key(node: int, token: int) -> int:
    return (node << 32) | (token & 0xFFFFFFFF)


@kernel
def _table(nodes: Int64, tokens: Int32, children: Int32) -> tuple[Int64, Int32]:
    """Return the hash table of edges: keys and children."""
    room = 4
    while room < 4 * nodes.size:
        room *= 2
    keys = np.full(room, -1, np.int64)
    child = np.full(room, -1, np.int32)
    for edge in range(nodes.size):
        key = _key(nodes[edge], tokens[edge])
        place = _place(key, room - 1)
        while keys[place] != -1:
            place = (place + 1) & (room - 1)
        keys[place] = key
        child[place] = children[edge]
    return keys, child


@helper
def _child(trie: _Trie, node: int, token: int) -> int:
    """Return the child that a token leads to, or -1."""
    mask = trie.keys.size - 1
    key = _key(node, token)
    place = _place(key, mask)
    while trie.keys[place] != key:
        if trie.keys[place] == -1:
            return -1
        place = (place + 1) & mask
    return int(trie.child[place])


@helper
def _seen(states: Int64, key: int, start: int) -> bool:
    """Tell whether the walk from ``start`` met a state before, and remember it."""
    mask = states.shape[0] - 1
    place = _place(key, mask)
    while states[place, 1] == start:
        if states[place, 0] == key:
            return True
        place = (place + 1) & mask
    states[place, 0] = key
    states[place, 1] = start
    return False


@helper
def _walk(
    tokens: Int32, start: int, end: int, trie: _Trie, gap: int, stack: Int64, states: Int64
) -> int:
    """Return the best rank among sequences that occur from ``start``, or _NO_ROOM.

    Without a gap limit the first position that reaches a node allows all that later ones do, so the
    node alone is the state. The table of states is kept at most half full.
    """
    best = int(trie.rank[0])
    root = _child(trie, 0, tokens[start])
    if root < 0:
        return best
    stack[0, 0] = root
    stack[0, 1] = start
    top = 1
    met = 0
    while top > 0:
        top -= 1
        node = stack[top, 0]
        position = stack[top, 1]
        best = min(best, int(trie.rank[node]))
        if trie.below[node] >= best:
            continue
        stop = end if gap < 0 else min(position + 2 + gap, end)
        for following in range(position + 1, stop):
            child = _child(trie, node, tokens[following])
            if child < 0 or min(trie.rank[child], trie.below[child]) >= best:
                continue
            key = child if gap < 0 else child * (end - start) + following - start
            if not _seen(states, key, start):
                met += 1
                if 2 * met >= states.shape[0]:
                    return _NO_ROOM
                stack[top, 0] = child
                stack[top, 1] = following
                top += 1
    return best


@kernel
def _match(tokens: Int32, offsets: Int64, trie: _Trie, gap: int, span: int) -> Int32:
    """Return the best rank at every position; ``gap`` -1 and ``span`` 0 mean no limit."""
    ranks = np.empty(tokens.size, np.int32)
    room = 256
    stack = np.empty((room, 2), np.int64)
    states = np.full((room, 2), -1, np.int64)
    for document in range(offsets.size - 1):
        for start in range(offsets[document], offsets[document + 1]):
            end = offsets[document + 1]
            if span > 0:
                end = min(end, start + span)
            best = _walk(tokens, start, end, trie, gap, stack, states)
            while best == _NO_ROOM:
                room *= 2
                stack = np.empty((room, 2), np.int64)
                states = np.full((room, 2), -1, np.int64)
                best = _walk(tokens, start, end, trie, gap, stack, states)
            ranks[start] = best
    return ranks
