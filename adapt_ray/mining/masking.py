"""The corpus as the search reads it: frequent ids numbered, infrequent ones masked in their place.

Deleting infrequent tokens instead would change the gaps between the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt_ray.errors import InputError
from adapt_ray.mining.compilation import kernel
from adapt_ray.mining.encoded import EncodedCorpus

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaskedCorpus:
    """Documents whose frequent ids are numbered 0.. in ascending order; all others are -1."""

    vocabulary: Int32  # [items], the ids
    support: Int64  # [items], documents with each
    occurrences: Int64  # [items], positions of each
    tokens: Int32  # [n_tokens]
    begin: Int64  # [n_documents + 1], first token of each document

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(np.diff(self.begin).max(initial=0))


def mask(corpus: EncodedCorpus, min_support: int) -> MaskedCorpus:
    """Number the ids that stand in at least ``min_support`` documents, mask the others.

    Raises InputError for negative ids.
    """
    tokens = frozen(corpus.tokens, np.int32)
    begin = frozen(corpus.offsets, np.int64)
    if tokens.min(initial=0) < 0:
        raise InputError(f"the corpus holds the token id {tokens.min()}; ids are 0 or more")
    largest = int(tokens.max(initial=-1))
    if largest < 2 * tokens.size + 1_000_000:
        ids = np.arange(largest + 1, dtype=np.int32)
    else:  # a table for every id would be larger than the corpus
        ids, inverse = np.unique(tokens, return_inverse=True)
        tokens = frozen(inverse, np.int32)
    support, occurrences = _count(tokens, begin, ids.size)
    frequent = support >= min_support
    number = np.where(frequent, np.cumsum(frequent) - 1, -1).astype(np.int32)
    return MaskedCorpus(
        vocabulary=ids[frequent],
        support=support[frequent],
        occurrences=occurrences[frequent],
        tokens=_renumber(tokens, frozen(number, np.int32)),
        begin=begin,
    )


def without_masked(corpus: MaskedCorpus) -> tuple[Int32, Int64]:
    """Return tokens and begins of the documents without masked places, the shortest first."""
    return _compact(
        frozen(corpus.tokens, np.int32),
        frozen(corpus.begin, np.int64),
        np.argsort(np.diff(corpus.begin), kind="stable"),
    )


def positions_of(tokens: Int32, items: Int32, occurrences: Int64) -> tuple[Int64, Int32]:
    """Return where each of the given ascending items stands, item after item, with offsets."""
    slot = np.full(occurrences.size + 1, -1, np.int32)  # the last one is that of masked places, -1
    slot[items] = np.arange(items.size)
    offsets = np.zeros(items.size + 1, np.int64)
    np.cumsum(occurrences[items], out=offsets[1:])
    return offsets, _positions(frozen(tokens, np.int32), slot, offsets)


def frozen(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return a read-only view, or a copy of another type.

    Kernels are compiled for read-only arrays: those of an object store or a memory map are that.
    """
    view = np.ascontiguousarray(array, dtype)[:]
    view.flags.writeable = False
    return view


@kernel
def _count(tokens: Int32, begin: Int64, ids: int) -> tuple[Int64, Int64]:
    """Return the documents and the positions of each id."""
    support = np.zeros(ids, np.int64)
    occurrences = np.zeros(ids, np.int64)
    last = np.full(ids, -1, np.int64)
    for document in range(begin.size - 1):
        for position in range(begin[document], begin[document + 1]):
            token = tokens[position]
            occurrences[token] += 1
            if last[token] != document:
                last[token] = document
                support[token] += 1
    return support, occurrences


@kernel
def _renumber(tokens: Int32, number: Int32) -> Int32:
    renumbered = np.empty(tokens.size, np.int32)
    for position in range(tokens.size):
        renumbered[position] = number[tokens[position]]
    return renumbered


@kernel
def _compact(tokens: Int32, begin: Int64, order: Int64) -> tuple[Int32, Int64]:
    kept = np.empty(tokens.size, np.int32)
    offsets = np.zeros(order.size + 1, np.int64)
    filled = 0
    for i in range(order.size):
        for position in range(begin[order[i]], begin[order[i] + 1]):
            if tokens[position] >= 0:
                kept[filled] = tokens[position]
                filled += 1
        offsets[i + 1] = filled
    return kept[:filled].copy(), offsets


@kernel
def _positions(tokens: Int32, slot: Int32, offsets: Int64) -> Int32:
    positions = np.empty(offsets[-1], np.int32)
    cursor = offsets.copy()
    for position in range(tokens.size):
        i = slot[tokens[position]]  # of -1: the last
        if i >= 0:
            positions[cursor[i]] = position
            cursor[i] += 1
    return positions
