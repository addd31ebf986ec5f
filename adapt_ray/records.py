"""Run records: one flat row per run with a fixed schema, and the store that keeps them.

    <root>/records/task=<task>/method=<method>/<run_id>.parquet   the record, one row
    <root>/predictions/<run_id>.parquet                           logits of the evaluated splits
    <root>/curves/<run_id>.parquet                                one row an epoch

The record is written last, each file in one atomic step: a record that can be seen implies its
companions, so a job that is killed finds its finished runs again and repeats the others. Every
file is sealed with the digest of its bytes: Parquet's own checksums leave out its headers and its
footer, where a changed byte renames a column: an optional score is then read as null.
"""

import dataclasses
import hashlib
import io
import json
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from types import UnionType
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adapt_ray.artifacts import open_root, write_whole
from adapt_ray.errors import InputError

Phase = Literal["search", "final", "finetune", "stability", "prompt"]
Status = Literal["ok", "diverged", "error"]

_PREDICTION_COLUMNS: dict[str, pa.DataType] = {
    "row_id": pa.int64(),
    "text_id": pa.int64(),
    "split": pa.string(),
    "label": pa.int64(),
    "logits": pa.list_(pa.float32()),
}
_CURVE_COLUMNS: dict[str, pa.DataType] = {
    "epoch": pa.int64(),
    "train_loss": pa.float64(),
    "dev_macro_f1": pa.float64(),
    "dev_accuracy": pa.float64(),
    "seconds": pa.float64(),
}
PREDICTIONS_SCHEMA = pa.schema(_PREDICTION_COLUMNS)
CURVES_SCHEMA = pa.schema(_CURVE_COLUMNS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one run was and what came out; a failure is a record too.

    A field that may be None is null where nothing was measured: test scores of a run that never
    touched the test split, every measurement of a run that ended in an error. Scores and shares
    are fractions. A field added later must allow None, or older records cannot be read.
    """

    run_id: str  # hash of what defines the run, seed included
    configuration_id: str  # the same hash without the seed
    phase: Phase
    task: str
    model: str
    contender: str  # the user's name of the configured method
    method: str
    config_json: str  # canonical JSON of what defines the run
    seed: int
    status: Status
    error: str | None = None

    dev_macro_f1: float | None = None
    dev_accuracy: float | None = None
    dev_per_class_f1: tuple[float, ...] | None = None
    test_macro_f1: float | None = None
    test_accuracy: float | None = None
    test_per_class_f1: tuple[float, ...] | None = None
    majority_macro_f1: float  # of always answering the most frequent class of the dev split

    epochs: int
    steps: int
    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    samples_per_second: float | None = None  # in training
    evaluate_samples_per_second: float | None = None  # of the dev split
    flops_per_epoch: int | None = None  # over all training rows
    train_flops: int | None = None  # of the rows that the run trained on
    step_memory_bytes: int | None = None  # weights, gradients, Adam, saved tensors; unsharded
    peak_memory_bytes: int | None = None
    memory_kind: Literal["rss", "cuda"] | None = None

    total_parameters: int | None = None
    trained_parameters: int | None = None
    added_parameters: int | None = None
    trained_share: float | None = None  # of the original parameters; head and new rows apart
    adapter_size: int | None = None  # rank, width or virtual tokens of what a method added
    cut_layer: int | None = None  # the lowest that trains; 0 where embeddings or new rows do too
    trunk_cache: Literal["fp32", "bf16"] | None = None  # null where the run computed its trunk
    trunk_fill_seconds: float | None = None  # of the training rows, once for all that share them
    trunk_fill_flops: int | None = None
    new_tokens: int
    inserted_token_share: float
    truncated_texts: int

    replies: int | None = None  # of a prompted model, one to each dev and test row
    unparsed: int | None = None  # replies that name no class, or more than one; counted as wrong
    prompt_tokens: int | None = None  # of all replies; null where the endpoint counts none
    completion_tokens: int | None = None
    cost_usd: float | None = None  # at the configured prices

    precision: str
    engine: str
    zero_stage: int | None = None
    world_size: int
    corpus_digest: str
    train_rows: int | None = None  # repeats of oversampling left out
    test_rows: int | None = None
    test_digest: str | None = None  # of the test split: equal where other sizes of train share it
    token_set_digest: str | None = None
    selection_json: str | None = None
    versions_json: str
    machine: str
    git_revision: str
    started_at: str  # ISO 8601, UTC

    @property
    def finished(self) -> bool:
        """Whether the run needs no repetition: it succeeded, or it diverged and would again."""
        return self.status in ("ok", "diverged")

    def judged(self) -> float:
        """Return the dev macro-F1 by which a search judges the run; a failed run learnt nothing."""
        return self.majority_macro_f1 if self.dev_macro_f1 is None else self.dev_macro_f1

    def summary(self) -> dict[str, Any]:
        """Return what was measured, without the texts that describe the machine."""
        row = dataclasses.asdict(self)
        left_out = ("config_json", "selection_json", "versions_json", "machine")
        return {k: v for k, v in row.items() if v is not None and k not in left_out}


_COLUMN_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    tuple: pa.list_(pa.float64()),
}


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _column(name: str, hint: Any) -> "pa.Field[Any]":
    nullable = isinstance(hint, UnionType) or type(None) in typing.get_args(hint)
    if nullable:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    origin = typing.get_origin(hint)
    base = str if origin is Literal else origin or hint
    return pa.field(name, _COLUMN_TYPES[base], nullable=nullable)


RUN_SCHEMA = pa.schema(
    [_column(name, hint) for name, hint in typing.get_type_hints(RunRecord).items()]
)


def run_records(table: pa.Table) -> list[RunRecord]:
    """Return the rows of a table with RUN_SCHEMA as typed records."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        for name in ("dev_per_class_f1", "test_per_class_f1"):
            row[name] = None if row[name] is None else tuple(row[name])
    return [RunRecord(**row) for row in rows]


class RecordStore:
    """Records below one storage root, on any pyarrow filesystem."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, path = open_root(root)
        self._base = PurePosixPath(path)

    def write(self, record: RunRecord, predictions: pa.Table, curves: pa.Table) -> None:
        """Keep a run: its predictions and curves first, then the record that vouches for them.

        ``predictions`` has PREDICTIONS_SCHEMA and ``curves`` CURVES_SCHEMA; both may be empty.
        Writing a run again replaces it.
        """
        row = pa.Table.from_pylist([dataclasses.asdict(record)], schema=RUN_SCHEMA)
        self._write(self._companion("predictions", record.run_id), predictions, PREDICTIONS_SCHEMA)
        self._write(self._companion("curves", record.run_id), curves, CURVES_SCHEMA)
        self._write(self._record(record.run_id, record.task, record.method), row, RUN_SCHEMA)

    def get(self, run_id: str, task: str, method: str) -> RunRecord | None:
        """Return a run's record, or None. Raises InputError when its file is damaged."""
        path = self._record(run_id, task, method)
        if self._fs.get_file_info(str(path)).type != pafs.FileType.File:
            return None
        return run_records(self._read_record(path))[0]

    def finished(self, run_id: str, task: str, method: str) -> bool:
        """Whether a run ended for good; one that ended in an error is to be tried again."""
        record = self.get(run_id, task, method)
        return record is not None and record.finished

    def all(self, task: str | None = None) -> pa.Table:
        """Return all records, or those of one task, with RUN_SCHEMA and in a fixed order.

        Raises InputError naming the first file that is damaged or no run record.
        """
        folder = self._base / "records"
        if task is not None:
            folder /= f"task={_file_name(task)}"
        with ThreadPoolExecutor() as pool:
            rows = list(pool.map(self._read_record, self._files(folder)))
        return pa.concat_tables([RUN_SCHEMA.empty_table(), *rows]).combine_chunks()

    def predictions(self, run_id: str) -> pa.Table:
        """Return a recorded run's predictions; InputError when missing or damaged."""
        return self._read(self._companion("predictions", run_id), PREDICTIONS_SCHEMA)

    def curves(self, run_id: str) -> pa.Table:
        """Return a recorded run's curves; InputError when missing or damaged."""
        return self._read(self._companion("curves", run_id), CURVES_SCHEMA)

    def _record(self, run_id: str, task: str, method: str) -> PurePosixPath:
        folder = self._base / "records" / f"task={_file_name(task)}"
        return folder / f"method={_file_name(method)}" / f"{_file_name(run_id)}.parquet"

    def _companion(self, kind: str, run_id: str) -> PurePosixPath:
        return self._base / kind / f"{_file_name(run_id)}.parquet"

    def _files(self, folder: PurePosixPath) -> list[PurePosixPath]:
        selector = pafs.FileSelector(str(folder), recursive=True, allow_not_found=True)
        paths = [
            PurePosixPath(info.path)
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.File
        ]
        # A writer that was killed can leave a file that begins with a dot and has another suffix.
        return sorted(path for path in paths if path.suffix == ".parquet")

    def _write(self, path: PurePosixPath, table: pa.Table, schema: pa.Schema) -> None:
        self._fs.create_dir(str(path.parent), recursive=True)
        write_whole(self._fs, str(path), _sealed(table.cast(schema)))

    def _read_record(self, path: PurePosixPath) -> pa.Table:
        row = self._read(path, RUN_SCHEMA)
        if len(row) != 1:
            raise InputError(f"record {path} holds {len(row)} rows, not one; {_REMEDY}")
        _check_values(path, row.to_pylist()[0])
        return row

    def _read(self, path: PurePosixPath, schema: pa.Schema) -> pa.Table:
        """Read a file as ``schema``: a column it lacks becomes null where null is allowed."""
        try:
            with self._fs.open_input_file(str(path)) as source:
                table = _unsealed(source.read())
        except (pa.ArrowException, OSError, UnicodeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"record file {path} cannot be read: {reason}; {_REMEDY}") from None
        columns = [_conformed(table, field) for field in schema]
        wrong = [f.name for f, column in zip(schema, columns, strict=True) if column is None]
        if wrong:
            raise InputError(
                f"record file {path} was not written by adapt_ray: column {wrong[0]!r} is missing "
                f"or is not {schema.field(wrong[0]).type}; {_REMEDY}"
            )
        return pa.Table.from_arrays(typing.cast("list[Any]", columns), schema=schema)


_SEAL = "adapt_ray.sha256"


def _sealed(table: pa.Table) -> bytes:
    """Return a Parquet file whose footer holds the digest of the file with zeros in its place."""
    sink = io.BytesIO()
    zeros = "0" * hashlib.sha256().digest_size * 2
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_SEAL: zeros})
    content = sink.getvalue()
    start = content.rindex(zeros.encode())
    seal = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + seal + content[start + len(seal) :]


def _unsealed(content: bytes) -> pa.Table:
    """Return what :func:`_sealed` wrote; OSError when its digest is another.

    Files without a seal were written before there was one: the checksums of their pages must do.
    """
    seal = (pq.read_metadata(io.BytesIO(content)).metadata or {}).get(_SEAL.encode())
    if seal is not None:
        zeros = b"0" * len(seal)
        if hashlib.sha256(content.replace(seal, zeros, 1)).hexdigest().encode() != seal:
            raise OSError("its content does not have the digest that it holds")
    return pq.read_table(io.BytesIO(content), page_checksum_verification=True)


_REMEDY = "delete it to have the run repeated"
_ALLOWED: dict[str, tuple[Any, ...]] = {
    name: tuple(one for part in (hint, *typing.get_args(hint)) for one in _literals(part))
    for name, hint in typing.get_type_hints(RunRecord).items()
}


def _check_values(path: PurePosixPath, row: dict[str, Any]) -> None:
    """Check what the types of the columns leave open. Raises InputError for the first value."""
    for name, allowed in _ALLOWED.items():
        if allowed and row[name] is not None and row[name] not in allowed:
            raise InputError(
                f"record {path}: {name} is {row[name]!r}; allowed: {', '.join(allowed)}; {_REMEDY}"
            )
    for name in ("config_json", "selection_json", "versions_json"):
        try:
            fine = row[name] is None or isinstance(json.loads(row[name]), dict)
        except ValueError:
            fine = False
        if not fine:
            raise InputError(f"record {path}: {name} is no JSON object; {_REMEDY}")
    if path.stem != _file_name(row["run_id"]):
        raise InputError(
            f"record {path} is of run {row['run_id']!r}, whose file is called "
            f"{_file_name(row['run_id'])}.parquet; delete what is a copy"
        )


def _conformed(table: pa.Table, field: "pa.Field[Any]") -> "pa.ChunkedArray[Any] | None":
    """Return the column as ``field`` describes it, or None where that is impossible."""
    if field.name not in table.column_names:
        absent = pa.chunked_array([pa.nulls(len(table), field.type)])
        return absent if field.nullable else None
    column = table[field.name]
    fits = column.type == field.type and (field.nullable or column.null_count == 0)
    return column if fits else None


def _file_name(text: str) -> str:
    """Return a plain file name for any text; different texts give different names.

    What could be a separator, a device name or a control character is percent-encoded; a name
    that file systems would refuse for its length is cut and told apart by a hash.
    """
    encoded = quote(text, safe="").replace("~", "%7E")
    if len(encoded) <= 200:
        return encoded
    return f"{encoded[:160]}~{hashlib.sha256(text.encode()).hexdigest()[:20]}"
