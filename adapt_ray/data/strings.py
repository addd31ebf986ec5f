"""Many strings in little memory: an Arrow column that reads like a sequence.

A million texts of 40 words take 0.25 GB in Arrow; as Python strings they take more, and every one
is an object that the garbage collector walks over.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Column: TypeAlias = "pa.ChunkedArray[Any]"

_BATCH = 10_000  # strings that exist as Python objects at a time


class Strings(Sequence[str]):
    """Strings, none null, in one Arrow column of type large_string. Equal where all are equal."""

    def __init__(self, column: Column) -> None:
        """Wrap a column of strings, which is cast where it is of another string type."""
        if column.null_count:
            raise ValueError(f"{column.null_count} of {len(column)} strings are null")
        self.column: Column = column.cast(pa.large_string())

    @classmethod
    def of(cls, values: Iterable[str]) -> "Strings":
        """Pack strings; the iterable is read in batches."""
        chunks: list[Any] = []
        batch: list[str] = []
        for value in values:
            batch.append(value)
            if len(batch) == _BATCH:
                chunks.append(pa.array(batch, pa.large_string()))
                batch = []
        chunks.append(pa.array(batch, pa.large_string()))
        return cls(pa.chunked_array(chunks, pa.large_string()))

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Strings": ...

    def __getitem__(self, index: int | slice) -> "str | Strings":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Strings(self.column.slice(start, max(0, stop - start)))
            return self.take(np.arange(start, stop, step))
        return str(self.column[index])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BATCH):
            yield from map(str, self.column.slice(start, _BATCH).to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and self.column.equals(other.column)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({len(self)})"

    def take(self, rows: npt.NDArray[np.int64]) -> "Strings":
        """Return the strings with these numbers, in this order."""
        return Strings(self.column.take(pa.array(rows, pa.int64())))

    def digest(self) -> str:
        """Return a SHA-256 of lengths and bytes, whatever the chunks; 64 hex digits."""
        lengths, content = hashlib.sha256(), hashlib.sha256()
        for chunk in self.column.chunks:
            if not len(chunk):
                continue
            places: Any
            _, places, data = chunk.buffers()
            offsets = np.frombuffer(memoryview(places), np.int64, len(chunk) + 1, 8 * chunk.offset)
            lengths.update(np.diff(offsets).astype("<i8").tobytes())
            if data is not None:
                content.update(memoryview(data)[offsets[0] : offsets[-1]])
        return hashlib.sha256(lengths.digest() + content.digest()).hexdigest()
