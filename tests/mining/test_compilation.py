"""The cache of compiled code: keyed by content, shared by copies, never in the way."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from adapt_ray.mining import compilation

SOURCE = """
from adapt_ray.mining.compilation import kernel

@kernel
def answer(x):
    return x + 41
"""


def load_copy(folder: Path, source: str = SOURCE) -> Any:
    """Return the kernel of a fresh module in its own folder."""
    folder.mkdir()
    (folder / "toy.py").write_text(source)
    spec = importlib.util.spec_from_file_location("toy", folder / "toy.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answer


def hits(answer: Any) -> int:
    assert answer(1) == 42
    return sum(answer.stats.cache_hits.values())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(compilation._config, "CACHE_DIR", str(folder))
    return folder


def test_copies_with_equal_content_share_code(cache: Path, tmp_path: Path) -> None:
    assert hits(load_copy(tmp_path / "one")) == 0
    assert hits(load_copy(tmp_path / "two")) == 1
    assert len(list(cache.iterdir())) == 1


def test_other_content_is_compiled(cache: Path, tmp_path: Path) -> None:
    assert hits(load_copy(tmp_path / "one")) == 0
    assert hits(load_copy(tmp_path / "two", SOURCE + "# changed\n")) == 0
    assert len(list(cache.iterdir())) == 2


def test_neighbours_are_part_of_the_content(tmp_path: Path) -> None:
    for name, neighbour in [("one", "x = 1"), ("two", "x = 2"), ("three", "x = 1")]:
        load_copy(tmp_path / name)
        (tmp_path / name / "helpers.py").write_text(neighbour)
    compilation._content.cache_clear()
    one, two, three = (compilation._content(tmp_path / n) for n in ("one", "two", "three"))
    assert one == three != two


def test_a_folder_that_cannot_be_written_costs_a_compilation(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert hits(load_copy(tmp_path / "one")) == 0


def test_damaged_files_cost_a_compilation(cache: Path, tmp_path: Path) -> None:
    assert hits(load_copy(tmp_path / "one")) == 0
    for path in cache.glob("*/*"):
        path.write_bytes(b"")
    assert hits(load_copy(tmp_path / "two")) == 0


def test_the_users_cache_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation._config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation.cache_root() == tmp_path / "adapt_ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compilation.cache_root() == tmp_path / "home" / ".cache" / "adapt_ray"
