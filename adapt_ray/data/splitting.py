"""Stratified draws that keep equal texts together, and oversampling of small classes."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def hold_out(
    labels: Ints, groups: Ints, size: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draw about ``size`` of the rows: a mask [n], true for drawn rows.

    Rows of one group (``groups`` [n]) stay on one side. Classes keep their shares: within one row
    of the exact share where every row is its own group and no class is too small for it. Every
    class keeps at least one row among the rows not drawn. The size is missed only where no whole
    group fits into what is left to draw.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    counts = np.bincount(labels)
    content = np.zeros((group_of.max(initial=-1) + 1, len(counts)), dtype=np.int64)
    np.add.at(content, (group_of, labels), 1)
    order = rng.permutation(len(content))
    drawn = _fit(content, order, quotas(counts, size), size)
    # Groups of several rows can leave class quotas unfilled: fill the size from any class.
    taken = content[drawn].sum(0)
    spare = np.maximum(counts - 1, 0) - taken
    rest = order[~drawn[order]]
    drawn |= _fit(content, rest, spare, size - int(taken.sum()))
    return drawn[group_of]


def quotas(counts: Ints, size: int) -> Ints:
    """Share ``size`` rows among classes in proportion to ``counts``, by largest remainder.

    At most ``counts - 1`` of a class, so that one row stays behind; the sum falls short of ``size``
    where that bound leaves no room.
    """
    exact = counts * size / max(int(counts.sum()), 1)
    limit = np.maximum(counts - 1, 0)
    shares = np.minimum(np.floor(exact).astype(np.int64), limit)
    by_remainder = np.argsort(shares - exact, kind="stable")
    growing = by_remainder[(shares < limit)[by_remainder]][: max(0, size - int(shares.sum()))]
    shares[growing] += 1
    return shares


def _fit(content: Ints, order: Ints, room: Ints, size: int) -> npt.NDArray[np.bool_]:
    """Take groups (``content`` [groups, classes]) in order while they fit into the room left."""
    room = room.copy()
    taken = np.zeros(len(content), dtype=np.bool_)
    for group in order:
        if size <= 0:
            break
        rows = int(content[group].sum())
        if rows <= size and (content[group] <= room).all():
            taken[group] = True
            room -= content[group]
            size -= rows
    return taken


def oversample(labels: Ints, least: int, rng: np.random.Generator) -> Ints:
    """Return row numbers: all rows in order, then repeats that give every class ``least`` rows.

    A class repeats its rows evenly, in random order; larger classes stay as they are.
    """
    rows = [np.arange(len(labels), dtype=np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        missing = max(0, least - len(members))
        rows.append(np.resize(rng.permutation(members), missing))
    return np.concatenate(rows)
