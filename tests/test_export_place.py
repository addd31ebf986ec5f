import errno
from pathlib import Path

import pytest

from adapt_ray.errors import InputError
from adapt_ray.export import SETTINGS, checked, load
from adapt_ray.export_place import check_export_place, exporting_to
from adapt_ray.prediction.model import local_copy, settings_at
from tests.distributed.exported import export_tiny


@pytest.fixture(autouse=True)
def own_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep copies of remote models among the files of this test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def test_an_export_to_a_uri_is_the_one_that_a_folder_gets(tmp_path: Path, tiny_model: str) -> None:
    uri, folder = f"file://{tmp_path}/bucket/model", tmp_path / "folder" / "model"
    for place in (uri, uri, str(folder)):  # the second one replaces the first
        with exporting_to(place) as written:
            export_tiny(written, tiny_model)
    assert settings_at(uri).digest == checked(folder).digest
    text = ["the order never came"]
    there, here = load(local_copy(uri)).logits(text), load(folder).logits(text)
    assert there.tolist() == here.tolist()


def test_what_fails_before_its_end_leaves_no_settings(tmp_path: Path) -> None:
    def fail() -> None:
        with exporting_to(f"file://{tmp_path}/bucket/model") as folder:
            folder.mkdir()
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not list((tmp_path / "bucket").rglob(SETTINGS))


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, tiny_model: str) -> None:
    check_export_place(str(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    check_export_place(str(tmp_path / "empty"))
    check_export_place(str(export_tiny(tmp_path / "earlier", tiny_model)))
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").touch()
    with pytest.raises(InputError, match=r"thesis' is a folder with other files \('chapter.tex'"):
        check_export_place(str(other))
