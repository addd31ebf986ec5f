"""Random recipes, flags and corpora: refused in one line or taken, never a traceback of our own."""

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adapt_ray import config
from adapt_ray.config import Config, DataConfig, parse
from adapt_ray.data.corpus import load_corpus
from adapt_ray.errors import InputError, one_line
from bad_input import run
from bad_input_cases import ROWS

JOBS: list[type[Config]] = [
    getattr(config, name)
    for name in sorted(vars(config))
    if name.endswith("Job") and name not in ("Job", "_TrainJob")
]
bounded = settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def field_names(model: type[Config]) -> list[str]:
    """Return the dotted names of every field of a job."""
    return [path for path, *_ in config._fields(model)]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(
        ["adapt", "full", "lora", "auto", "s3://a:b@c", "~nobody", "a\0b", "..", "1e9"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[type[Config], dict[Any, Any]]:
    """Draw a job and nested values under names that it has, and some that it has not."""
    model = draw(st.sampled_from(JOBS))
    names = st.sampled_from(field_names(model)) | st.text(max_size=6)
    made: dict[Any, Any] = {}
    for name in draw(st.lists(names, max_size=4)):
        here = made
        *parents, last = name.split(".")
        for parent in parents:
            child = here.setdefault(parent, {})
            here = child if isinstance(child, dict) else {}
        here[last] = draw(values)
    return model, made


def taken_or_refused(model: type[Config], arguments: list[str]) -> None:
    """Decode a command line: it may be refused in one line, or ask for help, and nothing else."""
    said, status = "", 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            parse(model, arguments, prog="python jobs/x.py")
        except InputError as error:
            said = one_line(str(error))
        except SystemExit as end:
            status = int(end.code or 0)
    assert status == 0
    assert "\n" not in said
    assert len(said) < 5000


@bounded
@given(recipes())
def test_recipes(made: tuple[type[Config], dict[Any, Any]]) -> None:
    model, content = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        taken_or_refused(model, [str(path)])


@bounded
@given(st.sampled_from(JOBS), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(JOBS[0], b"a: &a {b: *a}")
@example(JOBS[0], b"? [1, 2]\n: 3")
@example(JOBS[0], b"<<: 1")
@example(JOBS[0], b"a: 2024-99-99")
@example(JOBS[0], b"--- 1\n--- 2\n")
@example(JOBS[0], b"a: !!binary x")
@example(JOBS[0], b"a: !!timestamp x")
@example(JOBS[0], b"a: !!int x")
@example(JOBS[0], b"a: 1:99:1_")
def test_files_that_are_hardly_recipes(model: type[Config], content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(content)
        taken_or_refused(model, [str(path)])


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[type[Config], list[str]]:
    model = draw(st.sampled_from(JOBS))
    names = st.sampled_from(field_names(model)) | st.text(max_size=8)
    texts = st.text(max_size=12) | values.map(lambda value: yaml.safe_dump(value).strip())
    found: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        name, text = draw(names), draw(texts)
        found += draw(
            st.sampled_from([[f"--{name}={text}"], [f"--{name}", text], [f"{name}={text}"], [text]])
        )
    return model, found


@bounded
@given(command_lines())
@example((JOBS[0], ["--data={a: &a [*a]}"]))
@example((JOBS[0], ["--data.task.task=1"]))
@example((JOBS[0], ["--=", "--."]))
def test_flags(made: tuple[type[Config], list[str]]) -> None:
    taken_or_refused(*made)


# ---------------------------------------------------------------------------------------------
# Corpora

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    """Return the bytes of a sound corpus in every format."""
    rows = [line.rpartition(",")[::2] for line in ROWS.splitlines()]
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    parquet, csv = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pacsv.write_csv(table, csv)
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    return {
        ".parquet": parquet.getvalue(),
        ".csv": csv.getvalue(),
        ".jsonl": lines,
        ".json": lines,
    }


@contextlib.contextmanager
def written(content: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"corpus{suffix}"
        path.write_bytes(content)
        yield path


def read_or_refused(path: Path) -> None:
    with contextlib.suppress(InputError):
        load_corpus(DataConfig(source=str(path)))


@bounded
@given(st.binary(max_size=300), st.sampled_from(SUFFIXES))
@example(b"PAR1\0\0\0\0PAR1", ".parquet")
@example(b"\xff\xfet\0e\0x\0t\0", ".csv")
@example(b"text,label\n\0,a\nb,\0", ".csv")
@example(b'{"text": "a", "label": 1e400}', ".jsonl")
@example(b'{"text": "\\ud800", "label": "a"}\n{"text": "b", "label": "b"}', ".jsonl")
@example(b"{}", ".jsonl")
@example(b"null", ".json")
def test_bytes_for_a_corpus(content: bytes, suffix: str) -> None:
    with written(content, suffix) as path:
        read_or_refused(path)


@bounded
@given(st.data())
def test_spoilt_corpora(sound: dict[str, bytes], data: st.DataObject) -> None:
    """Bytes of a sound file are changed, cut, doubled or moved."""
    suffix = data.draw(st.sampled_from(SUFFIXES))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    content = bytearray(sound[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        end = min(end, begin + 64)
        piece = rng.choice([b"", rng.randbytes(end - begin), bytes(content[begin:end]) * 2, b"\0"])
        content[begin:end] = piece
    with written(bytes(content), suffix) as path:
        read_or_refused(path)


columns = st.one_of(
    st.lists(st.none() | st.text(max_size=5), min_size=6, max_size=6),
    st.lists(st.none() | st.integers(-2, 2), min_size=6, max_size=6),
    st.lists(st.floats(), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.lists(st.binary(max_size=4), min_size=6, max_size=6),
    st.lists(st.lists(st.text(max_size=2), max_size=2), min_size=6, max_size=6),
    st.lists(st.dates(), min_size=6, max_size=6),
    st.lists(st.sampled_from(["a", "b", "../x", "\x1b[0m", "<b>"]), min_size=6, max_size=6),
    st.just([None] * 6),
)
names = st.sampled_from(["text", "label", "body", "", "te\nxt"])


@bounded
@given(st.lists(st.tuples(names, columns), max_size=4), st.booleans(), st.binary(max_size=20))
@example([("text", list("abcdef")), ("label", list("ababab"))], False, b"{}")
@example([("text", list("abcdef")), ("label", [1, 0] * 3)], False, b'{"info": []}')
def test_random_tables(made: list[tuple[str, list[Any]]], coded: bool, metadata: bytes) -> None:
    arrays = [pa.array(values) for _, values in made]
    if coded:
        arrays = [a.dictionary_encode() if pa.types.is_string(a.type) else a for a in arrays]
    table = pa.Table.from_arrays(arrays, names=[name for name, _ in made])
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), sink)
    with written(sink.getvalue(), ".parquet") as path:
        read_or_refused(path)


@pytest.mark.parametrize("place", [b"wrongly", b"text"])
def test_strings_that_are_no_utf8(place: bytes) -> None:
    """Parquet promises UTF-8 in values and names, but nothing holds a writer to it."""
    table = pa.table({"text": ["wrongly", "b"], "label": ["x", "y"]})
    sink = io.BytesIO()
    pq.write_table(table, sink, use_dictionary=False, compression="none", store_schema=False)
    broken = sink.getvalue().replace(place, b"\x80" + place[1:])
    with written(broken, ".parquet") as path, pytest.raises(InputError, match="UTF-8|no column"):
        load_corpus(DataConfig(source=str(path)))


@settings(bounded, max_examples=8)
@given(st.data())
def test_a_planned_job_writes_nothing(sound: dict[str, bytes], data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(SUFFIXES))
    content = bytearray(sound[suffix])
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with written(bytes(content), suffix) as path:
        flags = [f"--storage={path.parent / 'runs'}", f"--data.source={path}", "--dry-run"]
        found = run("mine", flags, path.parent, {})
    assert found.status in (0, 2)
    assert found.error.count("\n") == (found.status == 2)
    assert found.changed == ()
