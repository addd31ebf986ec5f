"""Closed frequent token sequences under gap and span limits (paper section 3.1).

A document is a sequence of token ids; the support of a pattern is the number of documents with at
least one occurrence. An occurrence of p1..pn is a row of positions q1 < .. < qn that hold these
items, with at most ``max_gap`` foreign tokens between neighbours and at most ``max_span`` tokens
from q1 to qn, both counted. A pattern is closed when no item stands, in every supporting document,
in one and the same slot (before, between two given items, after) of a valid occurrence that stays
valid with it. Limits on the length filter the result; they never change what is closed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapt_ray.config import MiningConfig, decode
from adapt_ray.errors import InputError
from adapt_ray.mining.kernel_gapped import mine_gapped
from adapt_ray.mining.kernel_unlimited import mine_unlimited
from adapt_ray.mining.search import Bounds, Found, Roots, Sequences, count_documents

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
_LARGEST = np.iinfo(np.int32).max

# Real corpora look at 10 to 100 positions for each pattern that they have without limits. The cap
# on positions (about ten minutes) ends searches that go on without finding patterns.
_EXAMINED_PER_PATTERN = 4_000
_FEWEST_PATTERNS = 5_000_000


@dataclass(frozen=True, eq=False)
class EncodedCorpus:
    """Documents as one flat array of token ids."""

    tokens: Int32  # [n_tokens]
    offsets: Int64  # [n_documents + 1], first token of each document

    @classmethod
    def from_documents(cls, documents: Iterable[Sequence[int] | npt.NDArray[Any]]) -> Self:
        """Pack documents; raises InputError for anything but whole numbers from 0 to 2^31 - 1."""
        arrays = [_checked(document, number) for number, document in enumerate(documents)]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([array.size for array in arrays], out=offsets[1:])
        if offsets[-1] > _LARGEST:
            raise InputError(
                f"the documents hold {offsets[-1]} tokens together; at most {_LARGEST} are allowed"
            )
        tokens = np.concatenate([np.empty(0, np.int32), *arrays], dtype=np.int32)
        return cls(tokens, offsets)

    def save(self, folder: Path) -> None:
        """Write ``documents.parquet``: one row a document."""
        values = pa.array(self.tokens, pa.int32())
        column = pa.LargeListArray.from_arrays(pa.array(self.offsets, pa.int64()), values)
        pq.write_table(pa.table({"tokens": column}), folder / "documents.parquet")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        column = pq.read_table(folder / "documents.parquet")["tokens"]
        offsets = np.zeros(len(column) + 1, np.int64)
        np.cumsum(pc.list_value_length(column).to_numpy(), out=offsets[1:])
        return cls(pc.list_flatten(column).to_numpy(), offsets)


@dataclass(frozen=True, eq=False)
class Patterns:
    """Closed patterns in lexicographic order of their items."""

    items: Int32  # [sum of lengths], items of all patterns one after the other
    offsets: Int64  # [n_patterns + 1], first item of each pattern
    support: Int64  # [n_patterns], documents with an occurrence
    starts: Int64  # [n_patterns], positions of the corpus where an occurrence starts

    def __len__(self) -> int:
        return self.support.size

    def as_mapping(self) -> dict[tuple[int, ...], int]:
        """Return pattern -> support."""
        items = self.items.tolist()
        offsets = self.offsets.tolist()
        return {
            tuple(items[offsets[i] : offsets[i + 1]]): support
            for i, support in enumerate(self.support.tolist())
        }

    def save(self, folder: Path) -> None:
        """Write ``patterns.parquet``: one row a pattern."""
        values = pa.array(self.items, pa.int32())
        items = pa.LargeListArray.from_arrays(pa.array(self.offsets, pa.int64()), values)
        columns = [items, pa.array(self.support, pa.int64()), pa.array(self.starts, pa.int64())]
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), folder / "patterns.parquet")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; raises InputError when the columns differ."""
        path = folder / "patterns.parquet"
        table = pq.read_table(path)
        if not table.schema.equals(_SCHEMA):
            raise InputError(
                f"{path} has the columns {_columns(table.schema)}; "
                f"patterns have {_columns(_SCHEMA)}"
            )
        offsets = np.zeros(table.num_rows + 1, np.int64)
        np.cumsum(pc.list_value_length(table["items"]).to_numpy(), out=offsets[1:])
        return cls(
            items=pc.list_flatten(table["items"]).to_numpy(),
            offsets=offsets,
            support=table["support"].to_numpy(),
            starts=table["starts"].to_numpy(),
        )


_SCHEMA = pa.schema(
    [
        pa.field("items", pa.large_list(pa.int32())),
        pa.field("support", pa.int64()),
        pa.field("starts", pa.int64()),
    ]
)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def mine_closed(
    documents: Iterable[Sequence[int] | npt.NDArray[Any]],
    min_support: int = 5,
    min_length: int = 2,
    max_length: int = 20,
    max_gap: int | None = 1,
    max_span: int | None = None,
    *,
    max_patterns: int = 5_000_000,
) -> dict[tuple[int, ...], int]:
    """Return every closed pattern with its support, in lexicographic order.

    Documents are sequences of token ids (whole numbers from 0 to 2^31 - 1); each one counts, equal
    ones too. ``max_gap`` and ``max_span`` None mean no limit. Raises InputError for values outside
    their range and when more than ``max_patterns`` patterns are found.
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
        },
        "argument of mine_closed",
    )
    return mine_patterns(EncodedCorpus.from_documents(documents), limits).as_mapping()


def mine_patterns(
    corpus: EncodedCorpus, limits: MiningConfig, first_items: Int32 | None = None
) -> Patterns:
    """Return the closed patterns of a corpus, or those whose first item is among ``first_items``.

    Raises InputError when more than ``limits.max_patterns`` are found.
    """
    vocabulary, sequences = _frequent_only(corpus, limits.min_support)
    if vocabulary.size == 0:
        return _as_patterns(vocabulary, _NOTHING)
    wanted = vocabulary if first_items is None else np.intersect1d(vocabulary, first_items)
    items = np.searchsorted(vocabulary, wanted).astype(np.int32)
    if _unlimited(corpus, limits):
        sequences = _without_infrequent(sequences)
        found = mine_unlimited(
            sequences, _bounds(sequences, limits), _roots(sequences, items, True)
        )
    else:
        found = mine_gapped(sequences, _bounds(sequences, limits), _roots(sequences, items, False))
    if found.searched < items.size:
        raise InputError(_too_much(found, items.size, limits))
    return _as_patterns(vocabulary, found)


_NOTHING = Found(
    np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), 0
)


def document_support(corpus: EncodedCorpus) -> tuple[Int32, Int32, Int64]:
    """Return ids, the corpus's tokens as indices into them, and each id's number of documents.

    Ids that do not occur may be among them.
    """
    # A copy: kernels are compiled for writable arrays, and those of an object store are not.
    tokens = np.array(corpus.tokens, np.int32)
    largest = int(tokens.max(initial=-1))
    if largest < 2 * tokens.size + 1_000_000:
        ids = np.arange(largest + 1, dtype=np.int32)
    else:
        ids, inverse = np.unique(tokens, return_inverse=True)
        tokens = inverse.astype(np.int32)
    return ids, tokens, count_documents(tokens, np.array(corpus.offsets, np.int64), ids.size)


def _frequent_only(corpus: EncodedCorpus, min_support: int) -> tuple[Int32, Sequences]:
    """Number the frequent ids in ascending order; others become -1 but keep their place.

    Deleting them instead would change the gaps.
    """
    ids, tokens, support = document_support(corpus)
    frequent = support >= min_support
    number = np.where(frequent, np.cumsum(frequent) - 1, -1).astype(np.int32)
    lengths = np.diff(corpus.offsets)
    return ids[frequent], Sequences(
        tokens=number[tokens],
        document=np.repeat(np.arange(lengths.size, dtype=np.int32), lengths),
        begin=np.array(corpus.offsets, np.int64),
        next_equal=np.empty(0, np.int32),
        items=int(frequent.sum()),
    )


def _longest(begin: Int64) -> int:
    return int(np.diff(begin).max(initial=0))


def _unlimited(corpus: EncodedCorpus, limits: MiningConfig) -> bool:
    """Tell whether neither limit can bind in any document."""
    longest = _longest(corpus.offsets)
    return (limits.max_gap is None or limits.max_gap >= longest - 2) and (
        limits.max_span is None or limits.max_span >= longest
    )


def _bounds(sequences: Sequences, limits: MiningConfig) -> Bounds:
    longest = _longest(sequences.begin)
    gap = longest if limits.max_gap is None else min(limits.max_gap, longest)
    if limits.max_span is not None:
        gap = min(gap, max(limits.max_span - 2, 0))
    return Bounds(
        min_support=limits.min_support,
        min_length=limits.min_length,
        max_length=min(limits.max_length, longest),
        gap=gap,
        span=limits.max_span or 0,
        max_patterns=limits.max_patterns,
        max_examined=_EXAMINED_PER_PATTERN * max(limits.max_patterns, _FEWEST_PATTERNS),
    )


def _without_infrequent(sequences: Sequences) -> Sequences:
    """Delete the infrequent places, which mean nothing where no limit counts tokens."""
    keep = sequences.tokens >= 0
    kept_before = np.zeros(keep.size + 1, np.int64)
    np.cumsum(keep, out=kept_before[1:])
    return sequences._replace(
        tokens=sequences.tokens[keep],
        document=sequences.document[keep],
        begin=kept_before[sequences.begin],
    )


def _roots(sequences: Sequences, items: Int32, first_only: bool) -> Roots:
    """Return the positions of the given items, or only the first of each document."""
    is_root = np.zeros(sequences.items + 1, bool)  # the last one stands for infrequent items, -1
    is_root[items] = True
    positions = np.flatnonzero(is_root[sequences.tokens]).astype(np.int32)
    positions = positions[np.argsort(sequences.tokens[positions], kind="stable")]
    tokens = sequences.tokens[positions]
    documents = sequences.document[positions]
    first = np.ones(positions.size, bool)
    first[1:] = (tokens[1:] != tokens[:-1]) | (documents[1:] != documents[:-1])
    support = np.bincount(tokens[first], minlength=sequences.items)[items]
    if first_only:
        positions, tokens = positions[first], tokens[first]
    offsets = np.append(np.searchsorted(tokens, items), positions.size)
    notes = np.full(positions.size, -1, np.int64) if first_only else positions.copy()
    return Roots(items, offsets.astype(np.int64), positions, notes, support.astype(np.int64))


def _as_patterns(vocabulary: Int32, found: Found) -> Patterns:
    return Patterns(vocabulary[found.items], found.offsets, found.support, found.starts)


def _too_much(found: Found, n_items: int, limits: MiningConfig) -> str:
    """Return the message for a search that reached a cap."""
    gap = "no limit" if limits.max_gap is None else str(limits.max_gap)
    n_found = found.support.size
    reason = (
        f"more than max_patterns = {limits.max_patterns} closed patterns"
        if n_found == limits.max_patterns
        else f"the search is too large for max_patterns = {limits.max_patterns}"
    )
    return (
        f"{reason}: {n_found} found with {found.searched} of {n_items} first items searched; raise "
        f"min_support (now {limits.min_support}), lower max_gap (now {gap}), set or lower "
        "max_span, or raise max_patterns"
    )


def _checked(document: Any, number: int) -> npt.NDArray[Any]:
    """Return one document as an array of valid ids."""
    try:
        array = np.asarray(document)
    except ValueError:
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise InputError(f"document {number} is not a flat sequence of token ids")
    if array.size == 0:
        return np.empty(0, np.int32)
    allowed = f"token ids are whole numbers from 0 to {_LARGEST}"
    if array.dtype.kind not in "iu":
        bad = next((item for item in array.tolist() if type(item) is not int), array[0])
        raise InputError(f"document {number} holds {bad!r}; {allowed}")
    outside = (array < 0) | (array > _LARGEST)
    if outside.any():
        raise InputError(f"document {number} holds {array[outside][0]}; {allowed}")
    return array
