"""When two texts count as the same."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def normaliser(markers: Sequence[str] = ()) -> Callable[[str], str]:
    """Return a function that drops task markers and makes runs of white space single spaces."""
    if not markers:
        return lambda text: " ".join(text.split())
    longest_first = sorted(markers, key=len, reverse=True)
    any_marker = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: " ".join(any_marker.sub(" ", text).split())


def text_ids(texts: Iterable[str], markers: Sequence[str] = ()) -> Ints:
    """Number texts [n] by first appearance; equal after normalising and case folding, equal id.

    Texts are compared by a hash of 128 bits, so that none of them is kept.
    """
    normalise = normaliser(markers)
    hashes = bytearray()
    for text in texts:
        folded = normalise(text).casefold().encode()
        hashes += hashlib.blake2b(folded, digest_size=16).digest()
    halves = np.frombuffer(hashes, np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal texts stay in their order
    ordered = halves[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first_of = np.empty(len(order), np.int64)  # the first row with the same text
    first_of[order] = order[new][np.cumsum(new) - 1]
    is_first = first_of == np.arange(len(order))
    ids: Ints = (np.cumsum(is_first) - 1)[first_of]
    return ids


def first_rows(text_ids: Ints) -> Ints:
    """Return the rows where each text appears first, ascending.

    Support counts these: a corpus that repeats a sentence once for every relation in it would
    otherwise report the repeats as patterns.
    """
    return np.sort(np.unique(text_ids, return_index=True)[1])
