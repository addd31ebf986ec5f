"""Reading labelled rows from files, folders, object stores and the Hugging Face hub.

Whatever a user can get wrong about them is found here, before anything expensive starts.
"""

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from adapt_ray.artifacts import impatient, open_root
from adapt_ray.config import DataConfig, PredictData, expanded
from adapt_ray.data.strings import Column, Strings
from adapt_ray.errors import InputError, nearest

_BLOCK = 1 << 26  # bytes; pyarrow refuses a row that is longer than its read block


@dataclass(frozen=True)
class Rows:
    """The rows of one split: checked, nothing empty, labels as names."""

    texts: Strings
    labels: Strings


@dataclass(frozen=True)
class Texts:
    """Texts to classify, and what else is known of them."""

    texts: Strings
    labels: Strings | None  # as written; None where none were asked for
    carried: pa.Table  # the columns that go along, a row a text


@dataclass(frozen=True)
class _Part:
    """One table of a split, and what to call it in an error."""

    origin: str
    table: pa.Table


def read_source(source: str, config: DataConfig) -> dict[str, Rows]:
    """Read a source's splits ("train", and "dev" and "test" where it has them).

    A source is a file (all of it train), a folder, a URI of either, or a hub id; ``config`` gives
    columns and the hub's configuration and revision. A local copy of a hub dataset whose card says
    which files its splits are is read as the hub would. Raises InputError for a source that is
    missing, unreadable, or holds no usable texts and labels.
    """
    parts = _read_parts(source, config.hub_config, config.hub_revision, need_train=True)
    return {split: _rows(found, config) for split, found in parts.items()}


def read_texts(source: str, config: PredictData) -> Texts:
    """Read the texts of a source's splits, one after the other, with or without labels.

    Sources are those of :func:`read_source`, but any split will do. Raises InputError for a source
    that is missing or unreadable, a column that it lacks, and rows without a text.
    """
    parts = _read_parts(source, config.hub_config, config.hub_revision, need_train=False)
    for split in config.splits:
        if split not in parts:
            raise InputError(
                f"data.splits names {split!r}, but {source!r} has only {', '.join(parts)}"
            )
    wanted = config.splits or tuple(name for name in _ORDER if name in parts)
    chosen = [part for split in wanted for part in parts[split]]
    for part in chosen:
        if part.table.num_rows == 0:
            raise InputError(f"{part.origin} has no rows")
    texts = [_texts(part, config.text_column) for part in chosen]
    label = config.label_column
    labels = None if label is None else [_labels(part, label) for part in chosen]
    return Texts(
        _joined(texts), None if labels is None else _joined(labels), _carried(chosen, config)
    )


def _joined(columns: Sequence[Column]) -> Strings:
    chunks: list[Any] = [chunk for column in columns for chunk in column.chunks]
    return Strings(pa.chunked_array(chunks))


def _carried(parts: Sequence[_Part], config: PredictData) -> pa.Table:
    tables: list[pa.Table] = []
    for part in parts:
        columns = [_column(part, name, "columns") for name in config.columns]
        rows = pa.array(np.arange(part.table.num_rows))  # a table without columns has no rows
        tables.append(pa.table([rows, *columns], names=["", *config.columns]))
    try:
        return pa.concat_tables(tables, promote_options="default").drop_columns([""])
    except pa.ArrowException as error:
        raise InputError(
            f"data.columns {list(config.columns)} differ in type between the files of a source: "
            f"{_one_line(error)}"
        ) from None


def _read_parts(
    source: str, hub_config: str | None, revision: str | None, *, need_train: bool
) -> dict[str, list[_Part]]:
    expanded(source, "source")
    if not looks_like_path(source):
        return read_hub(source, hub_config, revision, need_train=need_train)
    if revision is None and is_hub_copy(source):
        folder = str(Path(source).expanduser().resolve())
        return read_hub(folder, hub_config, None, need_train=need_train)
    if hub_config or revision:
        raise InputError(
            f"data.hub_config and data.hub_revision are for hub ids, but source {source!r} is a "
            "path; leave them out"
        )
    return _read_path(source, need_train)


def looks_like_path(source: str) -> bool:
    """Return whether a source is a path or URI; a hub id is ``owner/name`` otherwise.

    A name below a folder that exists is a path, so that a misspelt one is not sought on the hub.
    """
    return (
        source.startswith(("./", "../", "/", "~"))
        or "://" in source
        or re.fullmatch(r"\.[a-z]{2,7}", PurePosixPath(source).suffix) is not None
        or re.fullmatch(r"[\w.-]+/[\w.-]+", source) is None
        or Path(source).parent.exists()
    )


def is_hub_copy(source: str) -> bool:
    """Return whether a path is a hub dataset's folder with a card that says what its files are."""
    card = Path(source).expanduser() / "README.md"
    if "://" in source or not card.is_file():
        return False
    header = re.match(
        r"---\n(.*?\n)---\n", card.read_text(encoding="utf-8", errors="replace"), re.S
    )
    return header is not None and re.search(r"^configs:", header[1], re.M) is not None


def find_folder(parent: str, task: str, names: Sequence[str]) -> str:
    """Return the first of some folders that lies in another one (a path or URI).

    Raises InputError that says what was looked for, and what there is.
    """
    fs, path = _open(parent)
    try:
        infos = fs.get_file_info(pafs.FileSelector(path))
    except (OSError, ValueError) as error:
        raise InputError(f"data.folder {parent!r} cannot be read: {_one_line(error)}") from None
    present = sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)
    for name in names:
        if name in present:
            return f"{parent.rstrip('/')}/{name}"
    raise InputError(
        f"data.folder {parent!r} holds no data of task {task!r}: looked for the folders "
        f"{', '.join(names)}; it holds {', '.join(present[:10]) or 'none'}"
    )


def read_hub(
    name: str, hub_config: str | None, revision: str | None, *, need_train: bool = True
) -> dict[str, list[_Part]]:
    """Read a hub dataset, or a local folder in the hub's layout. No code of it is run.

    Raises InputError when it cannot be loaded, and says how to give a local copy.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, name=hub_config, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        tried = f"config {hub_config or 'default'}, revision {revision or 'main'}"
        raise InputError(
            f"hub dataset {name!r} ({tried}) cannot be loaded: {_one_line(error)}; "
            "data.hub_config chooses a configuration; for a local copy give data.source=./FOLDER "
            "with files train.*, dev.*, test.* in parquet, jsonl or csv"
        ) from None
    parts = {
        _SPLITS[split]: [_Part(f"{name}, split {split}", rows.with_format("arrow")[:])]
        for split, rows in loaded.items()
        if split in _SPLITS
    }
    if not parts or (need_train and "train" not in parts):
        wanted = "train" if need_train else "train, dev or test"
        raise InputError(
            f"hub dataset {name!r} has no split {wanted}; its splits are {', '.join(loaded)}"
        )
    return parts


def _read_path(source: str, need_train: bool) -> dict[str, list[_Part]]:
    fs, path = _open(source)
    try:
        kind = fs.get_file_info(path).type
        if kind == pafs.FileType.File:
            return {"train": [_Part(source, _read_file(fs, path))]}
        if kind == pafs.FileType.Directory:
            files = _split_files(fs, path, source, need_train)
            return {
                split: [_Part(name, _read_file(fs, name)) for name in names]
                for split, names in files.items()
            }
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"source {source!r} cannot be read: {_one_line(error)}") from None
    raise InputError(
        f"source {source!r} does not exist; give a file ({', '.join(_READERS)}), a folder with "
        "train, dev and test files, a URI of either, or a hub id owner/name"
    )


def _open(source: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in source:
        return pafs.LocalFileSystem(), str(expanded(source, "source"))
    return open_root(impatient(source), "source")


_ORDER: tuple[Literal["train", "dev", "test"], ...] = ("train", "dev", "test")
# Splits by their file and hub names; the hub calls the dev split validation.
_SPLITS = {
    "train": "train",
    **dict.fromkeys(("dev", "validation", "valid", "val"), "dev"),
    "test": "test",
}
# train.csv, or one shard of the hub's export: train-00000-of-00002[-0123456789abcdef].parquet
_FILE = re.compile(
    r"(?P<split>train|dev|validation|valid|val|test)"
    r"(-\d+-of-(?P<shards>\d+)(-[0-9a-f]{16})?)?\.(parquet|jsonl|json|csv)"
)


def _split_files(
    fs: pafs.FileSystem, folder: str, source: str, need_train: bool
) -> dict[str, list[str]]:
    """Find the files of each split in a folder, or in its subfolder ``data``."""
    present = sorted(
        info.path
        for place in (folder, f"{folder.rstrip('/')}/data")
        for info in fs.get_file_info(pafs.FileSelector(place, allow_not_found=True))
        if info.type == pafs.FileType.File
    )
    found: dict[str, list[str]] = defaultdict(list)
    shards: dict[str, int] = {}
    for path in present:
        match = _FILE.fullmatch(PurePosixPath(path).name)
        if match:
            split = _SPLITS[match["split"]]
            found[split].append(path)
            shards[split] = int(match["shards"] or 1)
    if not found or (need_train and "train" not in found):
        names = ", ".join(PurePosixPath(path).name for path in present[:5]) or "no file"
        wanted = "train" if need_train else "train, dev or test"
        raise InputError(
            f"folder {source!r} has no {wanted} file: expected train.parquet, .jsonl, .json or "
            f".csv (or shards train-00000-of-00001.parquet); it holds {names}"
        )
    for split, paths in found.items():
        if len(paths) != shards[split]:
            raise InputError(
                f"folder {source!r} holds {len(paths)} files for {split} where {shards[split]} "
                f"would be complete: {', '.join(PurePosixPath(path).name for path in paths)}"
            )
    return dict(found)


def _read_file(fs: pafs.FileSystem, path: str) -> pa.Table:
    suffix = PurePosixPath(path).suffix
    if suffix not in _READERS:
        raise InputError(f"file {path!r} ends in {suffix!r}; readable are {', '.join(_READERS)}")
    if fs.get_file_info(path).size == 0:
        raise InputError(f"file {path!r} is empty")
    try:
        with fs.open_input_file(path) as stream:
            return _READERS[suffix](io.BytesIO(stream.read()))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        expected = "one JSON object a line" if suffix.startswith(".json") else suffix[1:]
        raise InputError(
            f"file {path!r} cannot be read as {expected}: {_one_line(error)}"
        ) from None


def _read_parquet(content: io.BytesIO) -> pa.Table:
    return pq.read_table(content)


def _read_json(content: io.BytesIO) -> pa.Table:
    if content.getvalue().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"null"):  # pyarrow dies of it
        raise pa.ArrowInvalid("the first row is null")
    return pajson.read_json(content, read_options=pajson.ReadOptions(block_size=_BLOCK))


def _read_csv(content: io.BytesIO) -> pa.Table:
    """Read every column as strings: a label 01 stays 01, and a text 1984 stays a text."""
    reading = pacsv.ReadOptions(block_size=_BLOCK)
    parsing = pacsv.ParseOptions(newlines_in_values=True)
    with pacsv.open_csv(io.BytesIO(content.getvalue()), reading, parsing) as reader:
        names = reader.schema.names
    types = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return pacsv.read_csv(content, reading, parsing, types)


_READERS: Mapping[str, Callable[[io.BytesIO], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
}


def _rows(parts: list[_Part], config: DataConfig) -> Rows:
    texts: list[Any] = []
    labels: list[Any] = []
    for part in parts:
        if part.table.num_rows == 0:
            raise InputError(f"{part.origin} has no rows")
        texts += _texts(part, config.text_column).chunks
        labels += _labels(part, config.label_column).chunks
    return Rows(*(Strings(pa.chunked_array(column)) for column in (texts, labels)))


def _texts(part: _Part, column: str) -> Column:
    values = _column(part, column, "text_column")
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        raise InputError(
            f"{part.origin}: column {column!r} holds {values.type}, not text; choose another with "
            "data.text_column"
        )
    return _filled(part, column, values, "text")


def _labels(part: _Part, column: str) -> Column:
    values = _column(part, column, "label_column")
    if not any(allowed(values.type) for allowed in _LABEL_TYPES):
        raise InputError(
            f"{part.origin}: column {column!r} holds {values.type}, not labels: strings, integers "
            "or booleans; choose another with data.label_column"
        )
    names = _class_names(part, column)
    if names:  # the hub writes -1 where a label is withheld
        values = _named(part, column, values, names)
    elif pa.types.is_boolean(values.type):
        values = pc.if_else(values, "True", "False")
    return _filled(part, column, values, "label")


_LABEL_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_null,
)


def _column(part: _Part, column: str, option: str) -> Column:
    """Return a column's values (those of the categories, where it has some)."""
    try:
        names = part.table.column_names
    except UnicodeDecodeError:
        raise InputError(f"{part.origin} has a column whose name is no UTF-8") from None
    if names.count(column) > 1:
        raise InputError(
            f"{part.origin} has the column {column!r} {names.count(column)} times; rename all but "
            "one"
        )
    if column not in names:
        raise InputError(
            f"{part.origin} has no column {column!r}{nearest(column, names)}; its columns are "
            f"{', '.join(names)}; choose one with data.{option}"
        )
    values = part.table[column]
    if isinstance(values.type, pa.DictionaryType):
        return values.cast(values.type.value_type)
    return values


def _class_names(part: _Part, column: str) -> list[str]:
    """Return the class names that the hub's export keeps beside integer labels, if any."""
    try:
        found = json.loads((part.table.schema.metadata or {}).get(b"huggingface", b"{}"))
        for name in ("info", "features", column, "names"):
            found = found.get(name, {})
        return [str(name) for name in found]
    except (ValueError, AttributeError, TypeError):
        raise InputError(
            f"{part.origin}: the metadata under 'huggingface' is damaged; write the file without it"
        ) from None


def _named(part: _Part, column: str, numbers: Column, names: list[str]) -> Column:
    """Return the names of numbered classes. Raises InputError for a number that has none."""
    if not pa.types.is_integer(numbers.type):
        raise InputError(
            f"{part.origin}: column {column!r} holds {numbers.type}, but the file's metadata has "
            "class names for numbers; write the file without them"
        )
    largest = pc.max(numbers).as_py()
    if largest is not None and largest >= len(names):
        raise InputError(
            f"{part.origin}: column {column!r} holds {largest}, but the file's metadata has "
            f"{len(names)} class names (0 to {len(names) - 1})"
        )
    withheld = pc.less(numbers, pa.scalar(0, numbers.type))
    return pa.chunked_array([names]).take(pc.if_else(withheld, None, numbers))


def _filled(part: _Part, column: str, values: Column, what: str) -> Column:
    """Return the values as strings. Raises InputError when some are null or blank."""
    strings: Column = values.cast(pa.large_string())
    try:
        strings.validate(full=True)
        trimmed: Any = pc.utf8_trim_whitespace(strings)
        empty: Any = pc.equal(trimmed, pa.scalar("", pa.large_string()))
    except pa.ArrowInvalid:
        reason = "holds bytes that are no UTF-8"
        raise InputError(f"{part.origin}: column {column!r} {reason}") from None
    blank = np.flatnonzero(pc.fill_null(empty, True).to_numpy())
    if blank.size:
        raise InputError(
            f"{part.origin}: column {column!r} has {blank.size} rows without a {what}, the first "
            f"is row {blank[0] + 1}; remove or fill them"
        )
    return strings


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".;")[:300]
