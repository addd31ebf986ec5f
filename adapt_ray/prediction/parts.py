"""Predictions by parts: each is written whole under a name that its content follows from.

    <output>/<key>/part-00000-of-00012.parquet    rows in the order of the input
    <output>/<key>/_predictions.json              written last, when every part is there

The key is the hash of the model's content, the texts, the columns carried along and the length of a
part: whatever changes one of them leads to another folder, so parts of different inputs never mix,
and what a killed job has finished is found again.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adapt_ray.artifacts import digest_json, open_root, write_whole
from adapt_ray.data.strings import Strings
from adapt_ray.errors import InputError

FACTS = "_predictions.json"  # Arrow's and Spark's readers of folders leave such names out
_VERSION = 1
_KEY, _CLASSES = b"adapt_ray.key", b"adapt_ray.classes"
_COLUMNS: dict[str, pa.DataType] = {
    "row": pa.int64(),  # number of the text in the input, from 0
    "predicted": pa.string(),  # the most probable class
    "probability": pa.float32(),  # of that class
    "probabilities": pa.list_(pa.float32()),  # of every class, in the order of the schema's note
}
OWN_COLUMNS = tuple(_COLUMNS)


@dataclass(frozen=True)
class Part:
    """Consecutive rows of the input."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Output:
    """Where the parts of one prediction belong; light, and the same on every node."""

    root: str  # absolute folder or URI
    key: str
    rows: int
    part_rows: int
    label_names: tuple[str, ...]

    @property
    def place(self) -> str:
        """The folder or URI that holds the parts."""
        path, mark, options = self.root.partition("?")  # a URI's options stay at its end
        return f"{path.rstrip('/')}/{self.key}{mark}{options}"

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts; together they hold every row once."""
        bounds = [*range(0, self.rows, self.part_rows), self.rows]
        return tuple(Part(number, *pair) for number, pair in enumerate(pairwise(bounds)))

    def unfinished(self) -> list[Part]:
        """Return the parts without a whole file of theirs; a damaged one counts as absent."""
        fs, folder = open_root(self.place)
        return [p for p in self.parts if not self._is_whole(fs, f"{folder}/{self._file(p)}", p)]

    def write(self, rows: pa.Table, probabilities: npt.NDArray[np.float32]) -> Part:
        """Write a part: ``rows`` holds its row numbers and what is carried along.

        ``probabilities`` [n, n_classes] are its predictions. ValueError where the rows are not
        exactly those of one part.
        """
        numbers = rows["row"].to_numpy()
        part = self.parts[int(numbers[0]) // self.part_rows]
        if not np.array_equal(numbers, np.arange(part.start, part.stop)):
            raise ValueError(f"rows {numbers[0]} to {numbers[-1]} are not those of {part}")
        sink = pa.BufferOutputStream()
        pq.write_table(self._table(rows, probabilities), sink, compression="zstd")
        fs, folder = open_root(self.place)
        fs.create_dir(folder, recursive=True)
        write_whole(fs, f"{folder}/{self._file(part)}", sink.getvalue().to_pybytes())
        return part

    def predicted(self) -> list[str]:
        """Return the predicted class of every row, in order; all parts must be finished."""
        found: list[str] = []
        fs, folder = open_root(self.place)
        for part in self.parts:
            with fs.open_input_file(f"{folder}/{self._file(part)}") as source:
                found += map(str, pq.read_table(source, columns=["predicted"])[0].to_pylist())
        return found

    def seal(self, facts: dict[str, Any]) -> None:
        """Note that every part is there, and what they were made from."""
        own = {"key": self.key, "rows": self.rows, "parts": len(self.parts)}
        content = own | {"classes": list(self.label_names)} | facts
        fs, folder = open_root(self.place)
        write_whole(fs, f"{folder}/{FACTS}", (json.dumps(content, indent=1) + "\n").encode())

    def _table(self, rows: pa.Table, probabilities: npt.NDArray[np.float32]) -> pa.Table:
        best = probabilities.argmax(1)
        own = {
            "row": rows["row"],
            "predicted": [self.label_names[index] for index in best],
            "probability": probabilities[np.arange(len(best)), best],
            "probabilities": list(probabilities),
        }
        carried = rows.drop_columns(["row"])
        fields = [*(pa.field(*column) for column in _COLUMNS.items()), *carried.schema]
        classes = json.dumps(list(self.label_names)).encode()
        schema = pa.schema(fields, metadata={_KEY: self.key.encode(), _CLASSES: classes})
        columns = {name: carried[name] for name in carried.column_names}
        return pa.table({**own, **columns}, schema=schema)

    def _file(self, part: Part) -> str:
        return f"part-{part.number:05d}-of-{len(self.parts):05d}.parquet"

    def _is_whole(self, fs: pafs.FileSystem, path: str, part: Part) -> bool:
        if fs.get_file_info(path).type != pafs.FileType.File:
            return False
        try:
            with fs.open_input_file(path) as source:
                file = pq.ParquetFile(source)
                notes = file.schema_arrow.metadata or {}
                rows = file.metadata.num_rows
        except (pa.ArrowException, OSError):
            return False
        return notes.get(_KEY) == self.key.encode() and rows == part.stop - part.start


def output_of(
    root: str,
    model_digest: str,
    label_names: Sequence[str],
    texts: Strings,
    carried: pa.Table,
    part_rows: int,
) -> Output:
    """Return where predictions of a model for some texts belong.

    Raises InputError for a column carried along that has the name of one of ours.
    """
    for name in carried.column_names:
        if name in _COLUMNS:
            raise InputError(
                f"data.columns names {name!r}, which the predictions have themselves; theirs are "
                f"{', '.join(_COLUMNS)}: rename the column"
            )
    content = [texts.digest(), _digest(carried)]
    key = digest_json([_VERSION, model_digest, content, part_rows])[:20]
    return Output(root, key, len(texts), part_rows, tuple(label_names))


def _digest(table: pa.Table) -> str:
    """Return a hash of a table's names, types and values, whatever its chunks."""
    sink = _Hashing()
    whole = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), whole.schema) as writer:
        writer.write_table(whole)
    return sink.digest()


class _Hashing(io.RawIOBase):
    """A file that keeps nothing but a hash of what is written."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._hash.update(content)
        return len(content)

    def digest(self) -> str:
        return self._hash.hexdigest()
