"""Parts of predictions: what is found again, and what never mixes."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.data.strings import Strings
from adapt_ray.errors import InputError
from adapt_ray.prediction.parts import FACTS, OWN_COLUMNS, Output, output_of

NAMES = ("good", "bad", "neither")


def probabilities(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).random((rows, len(NAMES)), np.float32)
    found: npt.NDArray[np.float32] = values / values.sum(1, keepdims=True)
    return found


def write(output: Output, number: int) -> None:
    part = output.parts[number]
    rows = pa.table({"row": np.arange(part.start, part.stop)})
    output.write(rows, probabilities(part.stop - part.start, number))


def output(root: Path, texts: list[str], part_rows: int, **changes: object) -> Output:
    values = {"model_digest": "m", "label_names": NAMES, "carried": pa.table({})} | changes
    strings = Strings.of(texts)
    return output_of(str(root), texts=strings, part_rows=part_rows, **values)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), part_rows=st.integers(1, 50), data=st.data())
def test_whatever_was_written_before_the_end_is_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: int, part_rows: int, data: st.DataObject
) -> None:
    """Any parts are written, some of them are damaged, and a later start writes what is missing."""
    found = output(tmp_path_factory.mktemp("out"), [str(i) for i in range(rows)], part_rows)
    numbers = st.sampled_from(range(len(found.parts)))
    written = data.draw(st.sets(numbers))
    damaged = data.draw(st.sets(st.sampled_from(sorted(written)))) if written else set()
    for number in written:
        write(found, number)
    files = sorted(Path(found.place).glob("*.parquet"))
    for number in damaged:
        path = files[sorted(written).index(number)]
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    left = {part.number for part in found.unfinished()}
    assert left == set(range(len(found.parts))) - (written - damaged)
    for number in left:
        write(found, number)
    assert found.unfinished() == []
    table = pq.read_table(found.place)
    assert table["row"].to_pylist() == list(range(rows))
    every = np.concatenate(
        [probabilities(part.stop - part.start, part.number) for part in found.parts]
    )
    np.testing.assert_array_equal(np.array(table["probabilities"].to_pylist(), np.float32), every)
    assert found.predicted() == [NAMES[index] for index in every.argmax(1)]
    np.testing.assert_array_equal(table["probability"].to_numpy(), every.max(1))


def test_whatever_changes_the_result_leads_to_another_folder(tmp_path: Path) -> None:
    texts = ["one", "two", "three"]
    carried = pa.table({"id": [1, 2, 3]})
    outputs = [
        output(tmp_path, texts, 2),
        output(tmp_path, ["one", "twothree", ""], 2),
        output(tmp_path, texts[::-1], 2),
        output(tmp_path, texts, 3),
        output(tmp_path, texts, 2, model_digest="n"),
        output(tmp_path, texts, 2, carried=carried),
        output(tmp_path, texts, 2, carried=carried.rename_columns(["number"])),
        output(tmp_path, texts, 2, carried=carried.cast(pa.schema({"id": pa.int32()}))),
        output(tmp_path, texts, 2, carried=pa.table({"id": [1, 2, None]})),
    ]
    assert len({found.key for found in outputs}) == len(outputs)
    pieces = pa.concat_tables([carried.slice(0, 1), carried.slice(1)])
    assert output(tmp_path, texts, 2, carried=pieces).key == outputs[5].key


def test_a_part_of_another_prediction_counts_as_absent(tmp_path: Path) -> None:
    one, other = output(tmp_path, ["a", "b"], 1), output(tmp_path, ["c", "d"], 1)
    write(one, 0)
    source = next(Path(one.place).glob("*.parquet"))
    Path(other.place).mkdir()
    (Path(other.place) / source.name).write_bytes(source.read_bytes())
    assert [part.number for part in other.unfinished()] == [0, 1]


def test_options_of_a_uri_stay_at_its_end(tmp_path: Path) -> None:
    for root in ("s3://bucket/out?region=x", "s3://bucket/out/?region=x"):
        found = Output(root, "key", 1, 1, NAMES)
        assert found.place == "s3://bucket/out/key?region=x"


def test_rows_that_are_no_part_are_refused(tmp_path: Path) -> None:
    found = output(tmp_path, ["a", "b", "c"], 2)
    with pytest.raises(ValueError, match="not those of"):
        found.write(pa.table({"row": [1, 2]}), probabilities(2))
    assert not list(tmp_path.rglob("*.parquet"))


def test_columns_go_along_and_the_end_is_noted(tmp_path: Path) -> None:
    carried = pa.table({"text": ["x"], "class": pa.array(["b"]).dictionary_encode()})
    found = output(tmp_path, ["a"], 5, carried=carried)
    rows = pa.table({"row": [0], **{name: carried[name] for name in carried.column_names}})
    found.write(rows, probabilities(1))
    table = pq.read_table(found.place)
    assert table.column_names == [*OWN_COLUMNS, "text", "class"]
    assert json.loads(table.schema.metadata[b"adapt_ray.classes"]) == list(NAMES)
    found.seal({"model": "m"})
    facts = json.loads((Path(found.place) / FACTS).read_text())
    assert facts == {"key": found.key, "rows": 1, "parts": 1, "classes": list(NAMES), "model": "m"}
    assert pq.read_table(found.place).equals(table)  # the note does not disturb readers
    assert not list(tmp_path.rglob(".*"))


def test_a_column_with_a_name_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names 'row', which the predictions have themselves"):
        output(tmp_path, ["a"], 1, carried=pa.table({"row": [1]}))
