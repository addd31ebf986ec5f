"""The record store against exact round trips, damage and names that are no file names."""

import dataclasses
import random
import string
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt_ray.errors import InputError
from adapt_ray.records import (
    CURVES_SCHEMA,
    PREDICTIONS_SCHEMA,
    RUN_SCHEMA,
    RecordStore,
    RunRecord,
)

NO_PREDICTIONS = PREDICTIONS_SCHEMA.empty_table()
NO_CURVES = CURVES_SCHEMA.empty_table()


def record(**changes: Any) -> RunRecord:
    """Return a record of a finished run."""
    values: dict[str, Any] = {
        "run_id": "r1",
        "configuration_id": "c1",
        "phase": "final",
        "task": "demo",
        "model": "minilm",
        "contender": "adapt",
        "method": "adapt",
        "config_json": "{}",
        "seed": 100,
        "status": "ok",
        "dev_macro_f1": 0.1 + 0.2,
        "dev_per_class_f1": (0.25, 1 / 3),
        "majority_macro_f1": 0.4,
        "epochs": 3,
        "steps": 30,
        "flops_per_epoch": 2**62 + 1,
        "new_tokens": 0,
        "inserted_token_share": 0.0,
        "truncated_texts": 0,
        "precision": "fp32",
        "engine": "plain",
        "world_size": 1,
        "corpus_digest": "d",
        "versions_json": "{}",
        "machine": "m",
        "git_revision": "g",
        "started_at": "2024-05-01T12:00:00+00:00",
    }
    return RunRecord(**(values | changes))


def store_in(folder: Path, *records: RunRecord) -> RecordStore:
    store = RecordStore(str(folder))
    for one in records:
        store.write(one, NO_PREDICTIONS, NO_CURVES)
    return store


def record_file(folder: Path) -> Path:
    (path,) = (folder / "records").rglob("*.parquet")
    return path


def test_schema_follows_the_record_and_keeps_its_units() -> None:
    assert RUN_SCHEMA.names == [field.name for field in dataclasses.fields(RunRecord)]
    assert RUN_SCHEMA.field("train_seconds") == pa.field("train_seconds", pa.float64())
    assert RUN_SCHEMA.field("flops_per_epoch") == pa.field("flops_per_epoch", pa.int64())
    assert RUN_SCHEMA.field("seed") == pa.field("seed", pa.int64(), nullable=False)
    assert RUN_SCHEMA.field("status") == pa.field("status", pa.string(), nullable=False)
    assert RUN_SCHEMA.field("test_per_class_f1").type == pa.list_(pa.float64())


def test_a_run_comes_back_exactly_with_its_companions(tmp_path: Path) -> None:
    predictions = pa.Table.from_pylist(
        [{"row_id": 3, "text_id": 1, "split": "dev", "label": 0, "logits": [0.1, -2.5]}],
        schema=PREDICTIONS_SCHEMA,
    )
    curves = pa.Table.from_pylist(
        [{"epoch": 1, "train_loss": float("inf"), "dev_macro_f1": 0.1, "seconds": 2.0}],
        schema=CURVES_SCHEMA,
    )
    store = RecordStore(str(tmp_path))
    store.write(record(), predictions, curves)
    assert store.get("r1", "demo", "adapt") == record()
    assert store.predictions("r1").equals(predictions)
    assert store.curves("r1").equals(curves)


names = st.text(min_size=1, max_size=300)
scores = st.none() | st.floats(allow_nan=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    task=names,
    method=names,
    f1=scores,
    per_class=st.none() | st.lists(st.floats(allow_nan=False)).map(tuple),
    error=st.none() | st.text(),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_record_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    task: str,
    method: str,
    f1: float | None,
    per_class: tuple[float, ...] | None,
    error: str | None,
    seed: int,
) -> None:
    written = record(
        task=task,
        method=method,
        test_macro_f1=f1,
        test_per_class_f1=per_class,
        error=error,
        seed=seed,
    )
    folder = tmp_path_factory.mktemp("store")
    store = store_in(folder, written)
    assert store.get("r1", task, method) == written
    assert store.all(task).to_pylist() == store.all().to_pylist()
    relative = record_file(folder).relative_to(folder)
    assert len(relative.parts) == 4
    allowed = set(string.ascii_letters + string.digits + "_.-%~=")
    assert all(set(part) <= allowed and len(part) < 256 for part in relative.parts)


@given(names, names)
def test_different_tasks_never_share_a_folder(first: str, second: str) -> None:
    store = RecordStore("/nowhere")
    same = store._record("r", first, "m") == store._record("r", second, "m")
    assert same == (first == second)


@pytest.mark.parametrize("task", ["../../outside", "a/b", "..", "C:\\x", "50% off", "µ|<b>", "~"])
def test_odd_task_names_stay_inside_the_store(tmp_path: Path, task: str) -> None:
    root = tmp_path / "root"
    store = store_in(root, record(task=task), record(task="other", run_id="r2"))
    assert store.all(task)["task"].to_pylist() == [task]
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_long_names_that_differ_late_stay_apart(tmp_path: Path) -> None:
    tasks = ["x" * 400 + end for end in "ab"]
    store = store_in(tmp_path, *(record(task=task) for task in tasks))
    assert [store.all(task)["task"].to_pylist() for task in tasks] == [[task] for task in tasks]


@pytest.mark.parametrize(
    ("status", "finished"), [("ok", True), ("diverged", True), ("error", False)]
)
def test_only_an_error_is_tried_again(tmp_path: Path, status: str, finished: bool) -> None:
    store = store_in(tmp_path, record(status=status))
    assert store.finished("r1", "demo", "adapt") == finished


def test_an_unknown_run_is_not_finished(tmp_path: Path) -> None:
    store = RecordStore(str(tmp_path))
    assert store.get("r1", "demo", "adapt") is None
    assert not store.finished("r1", "demo", "adapt")
    assert store.all().schema == RUN_SCHEMA
    assert len(store.all("demo")) == 0


def test_a_repeated_run_replaces_its_failure(tmp_path: Path) -> None:
    store = store_in(tmp_path, record(status="error", error="out of memory"), record())
    assert store.all()["status"].to_pylist() == ["ok"]


def test_a_killed_writer_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever write is the last to succeed, a record that exists has its companions."""
    real = Path.replace
    for survivors in range(3):
        folder = tmp_path / str(survivors)
        calls = iter(range(10))

        def replace(
            self: Path, target: Path, calls: Any = calls, survivors: int = survivors
        ) -> Path:
            if next(calls) >= survivors:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            store_in(folder, record())
        assert RecordStore(str(folder)).get("r1", "demo", "adapt") is None
        assert len(list(folder.rglob("*.parquet"))) == survivors


def test_leftover_temporary_files_are_ignored(tmp_path: Path) -> None:
    store = store_in(tmp_path, record())
    path = record_file(tmp_path)
    path.with_name(f".{path.name}.1234abcd").write_bytes(b"half a file")
    assert len(store.all()) == 1


def damaged(content: bytes) -> list[bytes]:
    cuts = random.Random(0).sample(range(len(content)), 5)
    return [b"", b"not parquet at all", *(content[:cut] for cut in cuts)]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = store_in(tmp_path, record())
    path = record_file(tmp_path)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        for read in (store.all, lambda: store.get("r1", "demo", "adapt")):
            with pytest.raises(InputError, match="delete it") as caught:
                read()
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordStore, Path, bytes]:
    """Return a store of one record, and that record's file with its content."""
    folder = tmp_path_factory.mktemp("stored")
    store = store_in(folder, record())
    return store, record_file(folder), record_file(folder).read_bytes()


@settings(max_examples=500, deadline=None)
@given(place=st.integers(0, 2**20), change=st.integers(1, 255))
def test_a_changed_byte_never_changes_a_record(
    stored: tuple[RecordStore, Path, bytes], place: int, change: int
) -> None:
    store, path, content = stored
    damaged = bytearray(content)
    damaged[place % len(content)] ^= change
    path.write_bytes(damaged)
    with suppress(InputError):
        assert store.get("r1", "demo", "adapt") == record()


def test_a_record_from_before_there_were_seals_is_read(tmp_path: Path) -> None:
    store = store_in(tmp_path, record())
    pq.write_table(store.all(), record_file(tmp_path), write_page_checksum=True)
    assert store.get("r1", "demo", "adapt") == record()


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (pa.table({"a": [1]}), "run_id"),
        (pa.Table.from_pylist([dataclasses.asdict(record())]).drop_columns(["seed"]), "seed"),
        (pa.table({"run_id": pa.array([None], pa.string())}), "run_id"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, table: pa.Table, column: str) -> None:
    store = store_in(tmp_path, record())
    pq.write_table(table, record_file(tmp_path))
    with pytest.raises(InputError, match=f"'{column}' is missing") as caught:
        store.all()
    assert str(record_file(tmp_path)) in str(caught.value)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_record_file_has_one_row(tmp_path: Path, rows: int) -> None:
    store = store_in(tmp_path, record())
    pq.write_table(pa.concat_tables([store.all()] * 2)[:rows], record_file(tmp_path))
    with pytest.raises(InputError, match=f"holds {rows} rows"):
        store.all()


def test_a_column_that_the_first_file_lacks_is_kept(tmp_path: Path) -> None:
    """Readers that take the first file's schema drop such a column silently."""
    store = store_in(tmp_path, record(run_id="a", test_macro_f1=0.5))
    path = record_file(tmp_path)
    pq.write_table(store.all().drop_columns(["test_macro_f1"]), path)
    store.write(record(run_id="b", test_macro_f1=0.7), NO_PREDICTIONS, NO_CURVES)
    assert store.all()["test_macro_f1"].to_pylist() == [None, 0.7]


def test_missing_companions_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"curves/r1\.parquet"):
        RecordStore(str(tmp_path)).curves("r1")


def test_a_uri_is_a_store_too(tmp_path: Path) -> None:
    store = RecordStore(f"file://{tmp_path}/root")
    store.write(record(), NO_PREDICTIONS, NO_CURVES)
    assert RecordStore(str(tmp_path / "root")).all().equals(store.all())


def test_object_stores_write_without_rename(tmp_path: Path) -> None:
    """A file system that is not known to rename gets whole files in one put."""
    store = RecordStore(str(tmp_path))
    store._fs = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
    store.write(record(), NO_PREDICTIONS, NO_CURVES)
    assert store.get("r1", "demo", "adapt") == record()
