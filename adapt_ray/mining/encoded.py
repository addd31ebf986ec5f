"""The corpus as mining reads it: token ids of whole documents."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
_LARGEST = np.iinfo(np.int32).max


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
        rows = max(1, _TOKENS_AT_A_TIME * len(column) // max(self.tokens.size, 1))
        pq.write_table(
            pa.table({"tokens": column}), folder / "documents.parquet", row_group_size=rows
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote, one row group after the other."""
        with _returned_memory(), pq.ParquetFile(folder / "documents.parquet") as file:
            groups = range(file.metadata.num_row_groups)
            # An empty document may count as one value.
            values = sum(file.metadata.row_group(i).column(0).num_values for i in groups)
            tokens = np.empty(values, np.int32)
            lengths = [np.empty(0, np.int64)]
            filled = 0
            for i in groups:
                column = file.read_row_group(i, use_threads=False)["tokens"]
                lengths.append(pc.list_value_length(column).to_numpy())
                ids = pc.list_flatten(column).to_numpy()
                tokens[filled : filled + ids.size] = ids
                filled += ids.size
        offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
        return cls(tokens[:filled], offsets)


_TOKENS_AT_A_TIME = 1 << 18  # in a row group: what reading needs beside the result


@contextlib.contextmanager
def _returned_memory() -> Iterator[None]:
    """Make Arrow give back at once what it read; by default it keeps five times the corpus."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


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
