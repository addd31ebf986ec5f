import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from adapt_ray.config import DataConfig
from adapt_ray.data.sources import Rows, looks_like_path, read_hub, read_source
from adapt_ray.data.strings import Strings
from adapt_ray.errors import InputError

TEXTS = ("a first text", 'with "quotes", a comma\nand a new line', "a third one")
LABELS = ("yes", "no", "yes")
DEFAULTS = DataConfig()


def rows(texts: Sequence[str], labels: Sequence[str]) -> Rows:
    return Rows(Strings.of(texts), Strings.of(labels))


ROWS = rows(TEXTS, LABELS)


def write(
    path: Path, texts: Sequence[Any] = TEXTS, labels: Sequence[Any] = LABELS, **columns: Any
) -> Path:
    """Write a table in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values: Mapping[str, Any] = columns or {"text": list(texts), "label": list(labels)}
    table = pa.table(dict(values))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pacsv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def error_of(source: Path | str, config: DataConfig = DEFAULTS) -> str:
    with pytest.raises(InputError) as caught:
        read_source(str(source), config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_a_single_file_is_train(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows{suffix}")
    assert read_source(str(path), DEFAULTS) == {"train": ROWS}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("dev", ["dev", "validation", "valid"])
def test_a_folder_holds_one_file_a_split(tmp_path: Path, suffix: str, dev: str) -> None:
    for name in ("train", dev, "test"):
        write(tmp_path / f"{name}{suffix}", [f"in {name}"], ["yes"])
    (tmp_path / "README.md").write_text("no split")
    found = read_source(str(tmp_path), DEFAULTS)
    assert found == {
        split: rows([f"in {name}"], ["yes"])
        for split, name in (("train", "train"), ("dev", dev), ("test", "test"))
    }


def test_a_uri_names_a_folder_or_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv")
    assert read_source(path.as_uri(), DEFAULTS)["train"] == ROWS
    assert read_source(tmp_path.as_uri(), DEFAULTS)["train"] == ROWS


def test_shards_of_the_hubs_export_are_joined_in_order(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00001-of-00002.parquet", ["second"], ["no"])
    write(tmp_path / "data/train-00000-of-00002.parquet", ["first"], ["yes"])
    write(tmp_path / "data/test-00000-of-00001-5c1aff50830bfd71.parquet", ["third"], ["no"])
    found = read_source(str(tmp_path), DEFAULTS)
    assert found["train"] == rows(["first", "second"], ["yes", "no"])
    assert found["test"] == rows(["third"], ["no"])


def test_integers_and_booleans_become_label_names(tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.jsonl", labels=[1, 0, 12])
    assert read_source(str(numbers), DEFAULTS)["train"].labels == Strings.of(["1", "0", "12"])
    booleans = write(tmp_path / "booleans.parquet", labels=[True, False, True])
    expected = Strings.of(["True", "False", "True"])
    assert read_source(str(booleans), DEFAULTS)["train"].labels == expected


def test_csv_columns_are_strings_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n1984,01\n2001,02\n")
    assert read_source(str(path), DEFAULTS)["train"] == rows(["1984", "2001"], ["01", "02"])


def test_categories_and_chosen_columns_are_read(tmp_path: Path) -> None:
    kinds = pa.array(LABELS).dictionary_encode()
    path = write(tmp_path / "rows.parquet", body=pa.array(TEXTS), kind=kinds, other=[1, 2, 3])
    config = DataConfig(text_column="body", label_column="kind")
    assert read_source(str(path), config)["train"] == ROWS


def write_hub_layout(folder: Path, labels: Sequence[int] = (1, 0, 1)) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
    )
    dataset = datasets.Dataset.from_dict(
        {"text": list(TEXTS), "label": list(labels)}, features=features
    )
    for split in ("train", "validation"):
        dataset.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")


def test_the_hubs_class_names_label_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_hub_layout(tmp_path / "copy")
    hub = read_hub(str(tmp_path / "copy"), None, None)
    assert {split: [part.table.num_rows for part in parts] for split, parts in hub.items()} == {
        "train": [3],
        "dev": [3],
    }
    monkeypatch.setattr("adapt_ray.data.sources.looks_like_path", lambda source: False)
    through_hub = read_source(str(tmp_path / "copy"), DEFAULTS)
    monkeypatch.undo()
    assert through_hub == {"train": ROWS, "dev": ROWS}
    assert read_source(str(tmp_path / "copy"), DEFAULTS) == through_hub


def test_withheld_labels_count_as_missing(tmp_path: Path) -> None:
    write_hub_layout(tmp_path, labels=[1, -1, -1])
    assert "2 rows without a label, the first is row 2" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("source", "is_path"),
    [
        ("./rows", True),
        ("~/rows", True),
        ("/rows", True),
        ("s3://bucket/rows", True),
        ("owner/rows.csv", True),
        ("rows", True),
        ("one/two/three", True),
        ("adapt_ray/rows", True),  # the folder exists
        ("owner/name", False),
        ("owner/name-v1.5", False),
    ],
)
def test_paths_and_hub_ids_are_told_apart(
    source: str, is_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapt_ray").mkdir()
    monkeypatch.chdir(tmp_path)
    assert looks_like_path(source) is is_path


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", tmp_path / "rows.csv"):
        message = error_of(missing)
        assert str(missing) in message
        assert "hub id owner/name" in message


def test_a_folder_without_train_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "test.csv")
    message = error_of(tmp_path)
    assert "no train file" in message
    assert "it holds test.csv" in message
    (tmp_path / "empty").mkdir()
    assert "it holds no file" in error_of(tmp_path / "empty")


def test_two_files_or_missing_shards_of_a_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "two/train.csv")
    write(tmp_path / "two/train.parquet")
    assert "2 files for train where 1 would be complete" in error_of(tmp_path / "two")
    write(tmp_path / "shards/train-00000-of-00003.parquet")
    assert "1 files for train where 3 would be complete" in error_of(tmp_path / "shards")


@pytest.mark.parametrize(("option", "column"), [("text_column", "txt"), ("label_column", "labl")])
def test_a_missing_column_names_the_columns(tmp_path: Path, option: str, column: str) -> None:
    path = write(tmp_path / "rows.csv")
    message = error_of(path, DataConfig(**{option: column}))
    assert str(path) in message
    assert repr(column) in message
    assert "did you mean" in message
    assert "text, label" in message
    assert f"data.{option}" in message


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert "is empty" in error_of(tmp_path / "empty.jsonl")
    (tmp_path / "header.csv").write_text("text,label\n")
    assert "has no rows" in error_of(tmp_path / "header.csv")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_empty_texts_are_counted_and_located(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows{suffix}", ["fine", None, "  "])
    message = error_of(path)
    assert str(path) in message
    assert "2 rows without a text, the first is row 2" in message


@pytest.mark.parametrize("labels", [["a", None, "b"], [1, None, 2], ["a", "", "b"]])
def test_missing_labels_are_counted_and_located(tmp_path: Path, labels: list[Any]) -> None:
    path = write(tmp_path / "rows.parquet", labels=labels)
    assert "1 rows without a label, the first is row 2" in error_of(path)


def test_columns_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.parquet", texts=[1, 2, 3])
    assert "'text' holds int64, not text" in error_of(numbers)
    lists = write(tmp_path / "lists.parquet", labels=[[1], [0], [1]])
    assert "not labels" in error_of(lists)
    floats = write(tmp_path / "floats.parquet", labels=[0.5, 1.0, 0.0])
    assert "'label' holds double, not labels" in error_of(floats)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = write(tmp_path / "rows.parquet", text=broken, label=["a", "b"])
    assert f"{path}: column 'text' holds bytes that are no UTF-8" in error_of(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "rows.txt"
    text.write_text("a\n")
    assert "'.txt'; readable are .parquet" in error_of(text)
    array = tmp_path / "rows.json"
    array.write_text('[{"text": "a", "label": "b"}]')
    assert "one JSON object a line" in error_of(array)
    broken = tmp_path / "rows.parquet"
    broken.write_text("not parquet at all")
    assert "cannot be read as parquet" in error_of(broken)
    ragged = tmp_path / "rows.csv"
    ragged.write_text("text,label\na,b\nc\n")
    assert "cannot be read as csv" in error_of(ragged)
    assert "cannot be opened" in error_of("nothing://bucket/rows")


def test_hub_options_with_a_path_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv")
    assert "are for hub ids" in error_of(path, DataConfig(hub_revision="main"))


def test_an_unreachable_hub_dataset_says_how_to_give_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = error_of("owner/name", DataConfig(hub_config="small"))
    assert "'owner/name' (config small, revision main)" in message
    assert "Couldn't reach the hub" in message
    assert "data.source=./FOLDER" in message


def test_a_hub_dataset_without_train_names_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_hub_layout(tmp_path / "copy")
    (tmp_path / "copy/data/train-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="no split train; its splits are validation"):
        read_hub(str(tmp_path / "copy"), None, None)
