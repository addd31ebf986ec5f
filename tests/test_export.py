"""Exported folders: what a damaged or hostile one says, and what the files give away."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import adapt_ray
from adapt_ray.errors import InputError
from adapt_ray.export import SETTINGS, WEIGHTS, checked
from adapt_ray.prediction import model as copies
from tests.distributed.exported import export_tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    return export_tiny(tmp_path_factory.mktemp("whole") / "model", tiny_model)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    """Change fields of the settings."""
    path = folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def unlisted(folder: Path) -> None:
    """Take the digests away, as of an export of an earlier version: other checks must hold."""
    change(folder, files=None)


def cut(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return damage


def put(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


TOKENIZER = "base_tokenizer/tokenizer.json"
CONFIG = "base_tokenizer/tokenizer_config.json"


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        cut(WEIGHTS),
        cut(WEIGHTS, 0),
        cut(TOKENIZER),
        cut(CONFIG),
        cut("tokens.json"),
        cut("task_tokenizer.json"),
        cut("backbone/config.json"),
        put("backbone/config.json", "[]"),
        put("backbone/config.json", '{"model_type": "no such type"}'),
        put("backbone/config.json", '{"model_type": "bert", "hidden_size": "wide"}'),
        put("backbone/config.json", '{"model_type": "bert", "hidden_size": 16}'),
        put(TOKENIZER, "{}"),
        put(TOKENIZER, '{"version": "1.0", "model": {"type": "Magic"}}'),
        put(CONFIG, '{"tokenizer_file": "/etc/passwd"}'),
        lambda folder: shutil.rmtree(folder / "backbone"),
        lambda folder: shutil.rmtree(folder / "base_tokenizer"),
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / "tokens.json").unlink(),
    ],
)
def test_damaged_files_are_told_in_one_line(
    folder: Path, damage: Callable[[Path], None], listed: bool
) -> None:
    if not listed:
        unlisted(folder)
    damage(folder)
    with pytest.raises(InputError) as told:
        adapt_ray.load(folder)
    assert "\n" not in str(told.value)
    assert "model" in str(told.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "holds a list, not settings"),
        ("\x00", "is damaged"),
        ('{"format": 2}', "has format 2; this version reads format 1"),
        ('{"format": 1}', "model"),
    ],
)
def test_damaged_settings(folder: Path, content: str, expected: str) -> None:
    (folder / SETTINGS).write_text(content)
    with pytest.raises(InputError, match=expected) as told:
        adapt_ray.load(folder)
    assert SETTINGS in str(told.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"label_names": ["one"]}, "label_names"),
        ({"label_names": "good"}, "label_names"),
        ({"label_names": ["a", "b"]}, "weights .* are damaged, or of another model"),
        ({"model": {"pooling": "maximum"}}, "pooling"),
        ({"model": {"code": 1}}, "unknown field"),
        ({"added": {"kind": "magic", "size": 1}}, "added"),
        ({"added": {"kind": "lora", "size": 2}}, "weights .* are damaged, or of another model"),
        ({"added": {"kind": "lora", "size": 0}}, "damaged|added"),
        ({"more": 1}, "unknown field 'more'"),
        ({"files": {"../secret": "0" * 64}}, "'../secret' leaves the model's folder"),
        ({"files": {"/etc/passwd": "0" * 64}}, "'/etc/passwd' leaves the model's folder"),
        ({"files": {WEIGHTS: "0"}}, "files"),
    ],
)
def test_settings_that_are_wrong(folder: Path, fields: dict[str, Any], expected: str) -> None:
    change(folder, **fields)
    with pytest.raises(InputError, match=expected) as told:
        adapt_ray.load(folder)
    assert "\n" not in str(told.value)


def test_a_folder_that_is_none_and_one_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        adapt_ray.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not an exported model"):
        adapt_ray.load(tmp_path)


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    unlisted(folder)
    (folder / "backbone" / "evil.py").write_text("raise SystemExit('ran')")
    path = folder / "backbone" / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    path.write_text(json.dumps(config))
    assert adapt_ray.load(folder).predict(["a text"]).labels


def test_an_export_of_an_earlier_version_still_opens(folder: Path) -> None:
    before = checked(folder).digest
    unlisted(folder)
    assert adapt_ray.load(folder).label_names
    assert checked(folder).digest == before


def test_others_may_read_it_as_any_new_folder(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert whole.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_model_at_a_uri_is_copied_once_and_checked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    uri = folder.as_uri()
    local = copies.local_copy(uri)
    assert local != folder
    assert copies.settings_at(uri).digest == checked(local).digest
    times = {path: path.stat().st_mtime_ns for path in local.rglob("*")}
    assert copies.local_copy(uri) == local
    assert {path: path.stat().st_mtime_ns for path in local.rglob("*")} == times
    assert len(list(local.parent.iterdir())) == 1
    texts = ["The order is late.", "Broken"]
    assert (
        adapt_ray.load(local).predict(texts).labels == adapt_ray.load(folder).predict(texts).labels
    )

    (folder / WEIGHTS).unlink()
    change(folder, label_names=["x", "y", "z"])  # another model
    with pytest.raises(InputError, match="cannot be read"):
        copies.local_copy(uri)
    assert len(list(local.parent.iterdir())) == 1
    local.parent.chmod(0o777)
    with pytest.raises(InputError, match="open to other users"):
        copies.local_copy(uri)
    for location in (f"{uri}/nowhere", "file:///nowhere"):
        with pytest.raises(InputError, match="not an exported model"):
            copies.settings_at(location)


def test_a_copy_that_another_process_made_first_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    copy = copies._copy
    target: list[Path] = []

    def and_another(*arguments: Any) -> None:
        copy(*arguments)
        if not target:
            target.append(tmp_path / f"adapt_ray-models-{os.getuid()}" / checked(folder).digest)
            shutil.copytree(folder, target[0])

    monkeypatch.setattr(copies, "_copy", and_another)
    assert [copies.local_copy(folder.as_uri())] == target
    assert adapt_ray.load(target[0]).label_names
