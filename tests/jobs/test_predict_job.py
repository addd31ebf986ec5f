"""The prediction job's command line: what is refused before Ray starts, and the dry run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.exported import NAMES, export_tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    return export_tiny(tmp_path_factory.mktemp("exported") / "model", tiny_model)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"text {i}", "topic": NAMES[i % 3], "number": i} for i in range(25)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_dry_run_tells_the_parts_and_writes_nothing(
    run_here: Run, model: Path, texts: Path, tmp_path: Path
) -> None:
    flags = [f"--model={model}", f"--data.source={texts}", f"--output={tmp_path / 'out'}"]
    status, shown, error = run_here("predict", *flags, "--part_rows=10", "--dry-run")
    assert status == 0, error
    assert "3, 0 of them done" in shown
    assert "classes billing, delivery, product" in shown
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_test_file_alone_will_do(
    run_here: Run, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "test.csv").write_text("text\na text\n")
    (folder / "dev.csv").write_text("text\nanother\none more\n")
    flags = [f"--model={model}", f"--data.source={folder}", "--dry-run"]
    for chosen, count in (("[]", 3), ("[test]", 1)):
        status, shown, error = run_here("predict", *flags, f"--data.splits={chosen}")
        assert status == 0, error
        assert f"\ntexts   {count}\n" in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model="], "model is not given"),
        (["--model=/nowhere"], "no folder '/nowhere'"),
        (["--model=."], "is not an exported model: it holds no adapt_ray.json"),
        (["--model=nosuch://bucket/model"], "nosuch"),
        (["--model=file:///nowhere"], "'file:///nowhere' is not an exported model"),
        (["--data.source="], "data.source is not given"),
        (["--data.source=/nowhere.csv"], "source '/nowhere.csv' does not exist"),
        (["--data.text_column=txt"], "has no column 'txt' (did you mean 'text'?)"),
        (["--data.text_column=number"], "column 'number' holds int64, not text"),
        (["--data.columns=[nummer]"], "has no column 'nummer' (did you mean 'number'?)"),
        (["--data.columns=[text, text]"], "names one twice"),
        (["--data.splits=[test]"], "data.splits names 'test'"),
        (["--data.splits=[tests]"], "data.splits"),
        (["--data.label_column=number"], "holds the label '0', which the model does not know"),
        (["--part_rows=0"], "part_rows is 0"),
        (["--output=nosuch://bucket"], "nosuch"),
    ],
)
def test_bad_input_is_told_before_ray_starts(
    run_here: Run, model: Path, texts: Path, tmp_path: Path, flags: list[str], expected: str
) -> None:
    given = [f"--model={model}", f"--data.source={texts}", f"--output={tmp_path / 'out'}"]
    status, _, error = run_here("predict", *given, *flags)
    assert (status, error.count("\n")) == (2, 1), error
    assert expected in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", '{"text": ""}', '{"text": null}', '{"text": "a"}\n{"te'])
def test_a_source_without_usable_texts(
    run_here: Run, model: Path, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(content)
    status, _, error = run_here("predict", f"--model={model}", f"--data.source={path}")
    assert (status, error.count("\n")) == (2, 1)
    assert "texts.jsonl" in error
