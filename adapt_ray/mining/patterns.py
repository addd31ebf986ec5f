"""What mining finds: closed patterns with their figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapt_ray.errors import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


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


def merge(parts: Iterable[Patterns]) -> Patterns:
    """Return the patterns of all shards in lexicographic order.

    Each shard must be in lexicographic order, as the search returns it; two shards may share a
    first item, but not a first item and the one after it. Whole runs of patterns are moved, column
    by column: parts that nobody else holds are freed on the way.
    """
    shards = sorted((part for part in parts if len(part)), key=lambda part: int(part.items[0]))
    if len(shards) == 1:
        return shards[0]
    if _apart(shards):
        rows = [(number, 0, len(part)) for number, part in enumerate(shards)]
    else:
        runs = np.concatenate([_runs(part, number) for number, part in enumerate(shards)])
        rows = _joined(runs[np.lexsort((runs["second"], runs["first"]))])
    offsets = [part.offsets for part in shards]
    items = [part.items for part in shards]
    support = [part.support for part in shards]
    starts = [part.starts for part in shards]
    del parts, shards
    places = [(part, offsets[part][begin], offsets[part][end]) for part, begin, end in rows]
    merged_items = _moved(items, places, np.int32)
    merged_support = _moved(support, rows, np.int64)
    merged_starts = _moved(starts, rows, np.int64)
    lengths = [np.diff(offsets[part][begin : end + 1]) for part, begin, end in rows]
    offsets.clear()
    merged_offsets = np.concatenate([np.zeros(1, np.int64), *lengths])
    np.cumsum(merged_offsets, out=merged_offsets)
    return Patterns(merged_items, merged_offsets, merged_support, merged_starts)


def _moved(
    columns: list[npt.NDArray[Any]], rows: Sequence[tuple[int, int, int]], dtype: type[np.generic]
) -> npt.NDArray[Any]:
    """Return the given rows (part, begin, end) of a column in one array, and forget the parts."""
    moved = np.concatenate([np.empty(0, dtype), *(columns[part][i:j] for part, i, j in rows)])
    columns.clear()
    return moved


def _apart(shards: Sequence[Patterns]) -> bool:
    """Tell whether all first items of a shard are below those of the next one."""
    ranges = [(part.items[0], part.items[part.offsets[-2]]) for part in shards]
    return all(left[1] < right[0] for left, right in pairwise(ranges))


_RUN = np.dtype([(name, np.int64) for name in ("first", "second", "part", "begin", "end")])


def _runs(patterns: Patterns, number: int) -> npt.NDArray[np.void]:
    """Return the runs of patterns that share their first two items (-1: there is no second)."""
    begin = patterns.offsets[:-1]
    first = patterns.items[begin].astype(np.int64)
    longer = np.diff(patterns.offsets) > 1
    second = np.full(len(patterns), -1, np.int64)
    second[longer] = patterns.items[begin[longer] + 1]
    new = np.ones(len(patterns), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.flatnonzero(new)
    runs = np.empty(starts.size, _RUN)
    runs["first"], runs["second"] = first[starts], second[starts]
    runs["part"] = number
    runs["begin"] = starts
    runs["end"] = np.append(starts[1:], len(patterns))[: starts.size]
    return runs


def _joined(runs: npt.NDArray[np.void]) -> list[tuple[int, int, int]]:
    """Return (part, begin, end), joined where two follow each other in their part already."""
    rows: list[tuple[int, int, int]] = []
    for _, _, part, begin, end in runs.tolist():
        if rows and rows[-1][0] == part and rows[-1][2] == begin:
            rows[-1] = (part, rows[-1][1], end)
        else:
            rows.append((part, begin, end))
    return rows
