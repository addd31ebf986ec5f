"""Exported models by path or URI: those of an object store are copied to this machine once."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from adapt_ray.artifacts import check_readable, open_root
from adapt_ray.errors import InputError
from adapt_ray.export import SETTINGS, Settings, checked, inside, parse_settings


def settings_at(location: str) -> Settings:
    """Return the settings of the exported model in a folder or at a URI, its digests included.

    The files of a folder are checked; those at a URI when they are copied and opened. Raises
    InputError when no model is there, or it is damaged.
    """
    if "://" not in location:
        return checked(Path(location))
    check_readable(location, "model")
    return _remote(location)[2]


def local_copy(location: str) -> Path:
    """Return a local folder with the exported model; what is at a URI is copied once a machine."""
    if "://" not in location:
        return Path(location)
    fs, base, settings, content = _remote(location)
    target = _cache() / settings.digest
    if (target / SETTINGS).is_file():
        return target
    scratch = Path(tempfile.mkdtemp(prefix=f".{settings.digest}-", dir=target.parent))
    try:
        assert settings.files is not None
        for name in settings.files:
            path = scratch / inside(name, location)
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(fs, f"{base}/{name}", path, location)
        (scratch / SETTINGS).write_bytes(content)
        if not target.exists():
            with contextlib.suppress(OSError):  # another process was faster
                scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _remote(location: str) -> tuple[pafs.FileSystem, str, Settings, bytes]:
    """Return the filesystem and path of a model at a URI, and its settings."""
    fs, base = open_root(location)
    path = f"{base.rstrip('/')}/{SETTINGS}"
    try:
        with fs.open_input_stream(path) as stream:
            content: bytes = stream.read()
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{location!r} is not an exported model: {SETTINGS} cannot be read there ({reason})"
        ) from None
    settings = parse_settings(content, f"{location}/{SETTINGS}")
    if settings.files is None:
        raise InputError(
            f"{location!r} was exported by a version that lists no files; export it again"
        )
    return fs, base.rstrip("/"), settings, content


def _copy(fs: pafs.FileSystem, source: str, target: Path, location: str) -> None:
    try:
        with fs.open_input_stream(source) as stream, target.open("wb") as sink:
            shutil.copyfileobj(stream, sink)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"exported model {location!r} cannot be read: {reason}") from None


def _cache() -> Path:
    """Return this user's folder for copies of models; nobody else can have put anything there."""
    folder = Path(tempfile.gettempdir()) / f"adapt_ray-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(f"folder {str(folder)!r} is open to other users; remove it")
    return folder
