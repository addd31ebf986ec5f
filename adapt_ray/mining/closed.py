"""Closed frequent token sequences under gap and span limits (paper section 3.1).

A document is a sequence of token ids; the support of a pattern is the number of documents with at
least one occurrence. An occurrence of p1..pn is a row of positions q1 < .. < qn that hold these
items, with at most ``max_gap`` foreign tokens between neighbours and at most ``max_span`` tokens
from q1 to qn, both counted. A pattern is closed when no item stands, in every supporting document,
in one and the same slot (before, between two given items, after) of a valid occurrence that stays
valid with it. Limits on the length filter the result; they never change what is closed.
"""

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt_ray.config import MiningConfig, decode
from adapt_ray.errors import InputError
from adapt_ray.mining.encoded import EncodedCorpus, Int32
from adapt_ray.mining.kernel_gapped import walk_gapped
from adapt_ray.mining.kernel_unlimited import next_equal, walk_unlimited
from adapt_ray.mining.masking import MaskedCorpus, frozen, mask, positions_of, without_masked
from adapt_ray.mining.partition import Shard, shards
from adapt_ray.mining.patterns import Patterns, merge
from adapt_ray.mining.search import (
    CAP_BYTES,
    CAP_PATTERNS,
    DONE,
    STOPPED,
    Bounds,
    Found,
    Roots,
    Sequences,
    search,
)

_GIB = 1 << 30
_SHARDS_PER_THREAD = 8  # enough that one heavy first item does not keep a thread waiting
_GROUPS = 8  # parts of the corpus whose positions are listed at a time


class CapError(InputError):
    """A search reached one of its caps; ``partial`` holds the closed patterns found until then.

    All of them are true, with their supports; others are missing. ``searched`` of ``total`` first
    items are done.
    """

    def __init__(self, message: str, partial: Patterns, searched: int, total: int) -> None:
        super().__init__(message)
        self.partial = partial
        self.searched = searched
        self.total = total


def mine_closed(
    documents: Iterable[Sequence[int] | npt.NDArray[Any]],
    min_support: int = 5,
    min_length: int = 2,
    max_length: int = 20,
    max_gap: int | None = 1,
    max_span: int | None = None,
    *,
    max_patterns: int = 5_000_000,
    max_seconds: float | None = 3600.0,
    memory_gb: float = 4.0,
    threads: int = 1,
) -> dict[tuple[int, ...], int]:
    """Return every closed pattern with its support, in lexicographic order.

    Documents are sequences of token ids (whole numbers from 0 to 2^31 - 1); each one counts, equal
    ones too. ``max_gap`` and ``max_span`` None mean no limit. Raises InputError for values outside
    their range, and CapError (with what was found) at the caps on patterns, on seconds (None: no
    limit) and on the memory of the search in GiB.
    """
    limits = decode(
        MiningConfig,
        {
            "min_support": min_support,
            "min_length": min_length,
            "max_length": max_length,
            "max_gap": max_gap,
            "max_span": max_span,
            "max_patterns": max_patterns,
            "max_seconds": max_seconds,
            "memory_gb": memory_gb,
        },
        "argument of mine_closed",
    )
    if type(threads) is not int or threads < 1:
        raise InputError(f"argument of mine_closed: threads is {threads!r}; it must be 1 or more")
    corpus = mask(EncodedCorpus.from_documents(documents), limits.min_support)
    return mine_masked(corpus, limits, threads=threads, count_starts=False).as_mapping()


def mine_patterns(
    corpus: EncodedCorpus, limits: MiningConfig, shard: Shard | None = None, *, threads: int = 1
) -> Patterns:
    """Return the closed patterns of a corpus, or of one shard of the search.

    Raises CapError when it reaches a cap of ``limits``.
    """
    return mine_masked(mask(corpus, limits.min_support), limits, shard, threads=threads)


def mine_masked(
    corpus: MaskedCorpus,
    limits: MiningConfig,
    shard: Shard | None = None,
    *,
    threads: int = 1,
    count_starts: bool = True,
) -> Patterns:
    """Like :func:`mine_patterns`; several shards need to mask the corpus only once.

    Without ``count_starts``, which scoring needs, ``starts`` of the result is 0 throughout.
    """
    work = [_known(shard, corpus)] if shard else _local_shards(corpus, threads)
    finished, cap = _Search(corpus, limits, threads, count_starts).run(
        [task for task in work if task.items.size]
    )
    searched = sum(found.searched for found in finished)
    patterns = merge(Patterns(*finished.pop()[:4]) for _ in range(len(finished)))
    if cap == DONE and len(patterns) > limits.max_patterns:
        cap = CAP_PATTERNS
    if cap != DONE:
        total = sum(task.items.size for task in work)
        message = _too_much(cap, len(patterns), searched, total, limits)
        raise CapError(message, patterns, searched, total)
    return patterns


def _known(shard: Shard, corpus: MaskedCorpus) -> Shard:
    """Return the shard without items that are not frequent."""
    return Shard(np.intersect1d(corpus.vocabulary, shard.items), shard.part)


def _local_shards(corpus: MaskedCorpus, threads: int) -> list[Shard]:
    """Split the work among threads."""
    if threads == 1:
        return [Shard(corpus.vocabulary)]
    return shards(corpus, _SHARDS_PER_THREAD * threads)


class _Search:
    """One corpus and the limits of its search, for the threads that share them."""

    def __init__(
        self, corpus: MaskedCorpus, limits: MiningConfig, threads: int, count_starts: bool
    ) -> None:
        self._corpus = corpus
        self._limits = limits
        self._threads = threads
        self._stop = np.zeros(1, np.int64)
        self._unlimited = _unlimited(corpus.longest, limits)
        tokens, begin = corpus.tokens, corpus.begin
        following = np.empty(0, np.int32)
        if self._unlimited:
            tokens, begin = without_masked(corpus)
            tokens, begin = frozen(tokens, np.int32), frozen(begin, np.int64)
            following = next_equal(tokens, begin, corpus.vocabulary.size)
        self._sequences = Sequences(
            tokens=frozen(tokens, np.int32),
            begin=frozen(begin, np.int64),
            vocabulary=frozen(corpus.vocabulary, np.int32),
            support=frozen(corpus.support, np.int64),
            next_equal=frozen(following, np.int32),
        )
        self._bounds = _bounds(corpus.longest, limits, threads, count_starts)

    def run(self, work: list[Shard]) -> tuple[list[Found], int]:
        """Mine the shards; return what was found, and the cap that was reached, or DONE.

        Kernels hold no interpreter lock, so threads are enough, and the caller's stays free for the
        clock and for an interruption.
        """
        seconds = min(self._limits.max_seconds or math.inf, threading.TIMEOUT_MAX)
        clock = threading.Timer(seconds, self._end)
        clock.daemon = True
        clock.start()
        found: list[Found] = []
        try:
            with ThreadPoolExecutor(self._threads) as pool:
                pending = {pool.submit(self._mine, shard) for shard in work}
                try:
                    while pending:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        found += [task.result() for task in done]
                        total = sum(part.support.size for part in found)
                        if total > self._limits.max_patterns or any(
                            part.cap != DONE for part in found
                        ):
                            self._end()
                except BaseException:
                    self._end()
                    raise
        finally:
            clock.cancel()
        caps = [part.cap for part in found if part.cap not in (DONE, STOPPED)]
        stopped = STOPPED if any(part.cap == STOPPED for part in found) else DONE
        return found, caps[0] if caps else stopped

    def _end(self) -> None:
        self._stop[0] = 1

    def _mine(self, shard: Shard) -> Found:
        bounds = self._bounds._replace(part=shard.part[0], parts=shard.part[1])
        walk = walk_unlimited if self._unlimited else walk_gapped
        items = np.searchsorted(self._corpus.vocabulary, shard.items).astype(np.int32)
        return search(walk, self._sequences, bounds, self._groups(items), self._stop)

    def _groups(self, items: Int32) -> Iterator[Roots]:
        """Yield roots a few at a time: the positions of all would be as large as the corpus."""
        occurrences = self._corpus.occurrences
        group = np.cumsum(occurrences[items]) // (self._sequences.tokens.size // _GROUPS + 1)
        for roots in np.split(items, np.flatnonzero(np.diff(group)) + 1):
            yield Roots(roots, *positions_of(self._sequences.tokens, roots, occurrences))


def _unlimited(longest: int, limits: MiningConfig) -> bool:
    """Tell whether neither limit can bind in any document."""
    return (limits.max_gap is None or limits.max_gap >= longest - 2) and (
        limits.max_span is None or limits.max_span >= longest
    )


def _bounds(longest: int, limits: MiningConfig, threads: int, count_starts: bool) -> Bounds:
    gap = longest if limits.max_gap is None else min(limits.max_gap, longest)
    if limits.max_span is not None:
        gap = min(gap, max(limits.max_span - 2, 0))
    return Bounds(
        min_support=limits.min_support,
        min_length=limits.min_length,
        max_length=min(limits.max_length, max(longest, 1)),
        gap=gap,
        span=limits.max_span or 0,
        part=0,
        parts=1,
        count_starts=count_starts,
        max_patterns=limits.max_patterns,
        max_bytes=int(limits.memory_gb * _GIB / threads),
    )


def _too_much(cap: int, n_found: int, searched: int, total: int, limits: MiningConfig) -> str:
    """Return the message for a search that reached a cap."""
    gap = "no limit" if limits.max_gap is None else str(limits.max_gap)
    reason, option = {
        CAP_PATTERNS: (
            f"more than max_patterns = {limits.max_patterns} closed patterns",
            "max_patterns",
        ),
        CAP_BYTES: (
            f"the search needs more than memory_gb = {limits.memory_gb:g} GiB",
            "memory_gb",
        ),
        STOPPED: (f"not done after max_seconds = {limits.max_seconds}", "max_seconds"),
    }[cap]
    return (
        f"{reason}: {n_found} patterns found with {searched} of {total} first items searched; "
        f"raise min_support (now {limits.min_support}), lower max_gap (now {gap}), set or lower "
        f"max_span, or raise {option}"
    )
