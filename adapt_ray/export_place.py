"""Where exported models go: a folder, which is replaced, or a URI, which receives the files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

from adapt_ray.artifacts import check_place, open_root, write_whole
from adapt_ray.errors import InputError
from adapt_ray.export import SETTINGS


def check_export_place(place: str) -> None:
    """Check that a model can be exported to an absolute folder or a URI.

    Raises InputError where nothing can be written, and for a folder of something else than an
    export, which would be lost.
    """
    check_place(place, "export")
    folder = Path(place)
    if "://" not in place and folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if names and SETTINGS not in names:
            raise InputError(
                f"export {place!r} is a folder with other files ({names[0]!r} is one), and an "
                "export replaces what is there; give a new folder, or one that holds an export"
            )


@contextmanager
def exporting_to(place: str) -> Iterator[Path]:
    """Give a local folder to export into; for a URI, its files are copied there in the end.

    The settings are copied last: they tell readers which files belong to the model.
    """
    check_export_place(place)
    if "://" not in place:
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="adapt_ray-") as scratch:
        folder = Path(scratch) / "model"
        yield folder
        settings = (folder / SETTINGS).read_bytes()
        (folder / SETTINGS).unlink()
        filesystem, base = open_root(place)
        filesystem.create_dir(base, recursive=True)
        pafs.copy_files(
            str(folder),
            base,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=filesystem,
        )
        write_whole(filesystem, f"{base.rstrip('/')}/{SETTINGS}", settings)
