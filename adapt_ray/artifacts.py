"""Content-addressed artifacts: every stage's result is computed once and found again by its key.

A key is the hash of the stage, its version, its configuration and the *content digests* of its
inputs; paths, resources and times stay outside. Files are written under a unique attempt folder
and the manifest is published last, in one atomic step: a reader that sees a manifest sees a whole
artifact, on a local disk as on an object store that cannot rename folders. Readers verify every
file's digest before they use it.

    <root>/artifacts/<stage>/<key>/<attempt>/<files>
    <root>/artifacts/<stage>/<key>/manifest.json
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import TypeAdapter

from adapt_ray.config import expanded
from adapt_ray.errors import InputError, shown

MANIFEST = "manifest.json"


class Writable(Protocol):
    """A stage's product, or what computes it while it writes."""

    def save(self, folder: Path) -> None:
        """Write files into an existing, empty folder."""


class Saved(Writable, Protocol):
    """A stage's product that also reads itself back."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""


T = TypeVar("T", bound=Saved)


@dataclass(frozen=True)
class Stage:
    """What identifies an artifact: ``inputs`` maps a role to the content digest of that input."""

    name: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """The artifact's key, 20 hex digits."""
        return digest_json([self.name, self.version, self.config, self.inputs])[:20]


@dataclass(frozen=True)
class Manifest:
    """What was published: file digests, and notes (JSON) about how it came out."""

    stage: str
    key: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    attempt: str
    files: Mapping[str, str]
    notes: Mapping[str, Any] = field(repr=False)  # can be long

    @property
    def digest(self) -> str:
        """Content digest of all files, 20 hex digits: what a later stage puts into its key."""
        return digest_json(self.files)[:20]


_MANIFEST = TypeAdapter(Manifest)


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON; a value that is not JSON raises TypeError."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_root(root: str, field: str = "storage") -> tuple[pafs.FileSystem, str]:
    """Return the filesystem and path of a storage root: an absolute folder, or a URI.

    Raises InputError, naming the configuration's ``field``, when the scheme is unknown or the place
    cannot be reached.
    """
    try:
        if "://" in root:
            filesystem, path = pafs.FileSystem.from_uri(root)
            return filesystem, str(path)
        return pafs.LocalFileSystem(), str(expanded(root, field).resolve())
    except InputError:
        raise
    except (ValueError, OSError, NotImplementedError, pa.ArrowException) as error:
        raise InputError(f"{field} {root!r} cannot be opened: {_reason(error)}") from None


def check_place(root: str, field: str = "storage") -> None:
    """Check, writing nothing, that a folder or URI can be reached, and on a disk written to.

    Raises InputError naming the configuration's ``field`` when it cannot, or when a file is there.
    """
    filesystem, path = open_root(root, field)
    if isinstance(filesystem, pafs.LocalFileSystem):
        _check_writable(Path(path), root, field)
    else:
        check_readable(root, field)


def check_readable(root: str, field: str = "storage") -> None:
    """Check that a folder or URI can be reached; it need not exist yet.

    Raises InputError naming the configuration's ``field`` when it cannot, or when a file is there.
    """
    filesystem, path = open_root(impatient(root), field)
    if not path.strip("/"):
        raise InputError(f"{field} {root!r} names no bucket; give one, as s3://bucket/folder")
    try:
        kind = filesystem.get_file_info(path).type
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{field} {root!r} cannot be reached: {_reason(error)}") from None
    if kind == pafs.FileType.File:
        raise InputError(f"{field} {root!r} is a file; give a folder")
    bucket = path.strip("/").partition("/")[0]
    if kind == pafs.FileType.NotFound and _is_missing(filesystem, bucket):
        raise InputError(f"{field} {root!r}: there is no bucket {bucket!r}")


def _is_missing(filesystem: pafs.FileSystem, bucket: str) -> bool:
    if isinstance(filesystem, pafs.LocalFileSystem):
        return False
    try:
        return bool(filesystem.get_file_info(bucket).type == pafs.FileType.NotFound)
    except OSError:  # who may use a folder of a bucket need not be allowed to look at the bucket
        return False


def impatient(root: str) -> str:
    """Return a URI that gives up in seconds: Google's client tries for a quarter of an hour."""
    if not root.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in root:
        return root
    return f"{root}{'&' if '?' in root else '?'}retry_limit_seconds=10"


def _check_writable(path: Path, root: str, field: str) -> None:
    here = path
    while True:
        try:
            here.stat()
            break
        except (FileNotFoundError, NotADirectoryError):
            here = here.parent
        except OSError as error:
            raise InputError(f"{field} {shown(root)} cannot be used: {error.strerror}") from None
    if not here.is_dir():
        raise InputError(f"{field} {root!r} is no folder: {str(here)!r} is a file")
    if not os.access(here, os.W_OK | os.X_OK):
        raise InputError(f"{field} {root!r}: this user may not write into {str(here)!r}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class ArtifactStore:
    """Artifacts below one storage root, on any pyarrow filesystem."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, path = open_root(root)
        self._base = PurePosixPath(path) / "artifacts"
        self.local = isinstance(self._fs, pafs.LocalFileSystem)

    def find(self, stage: Stage) -> Manifest | None:
        """Return the manifest of a finished artifact, or None. Files are not verified yet."""
        path = self._folder(stage) / MANIFEST
        if self._fs.get_file_info(str(path)).type != pafs.FileType.File:
            return None
        manifest = self._manifest(path)
        if (manifest.stage, manifest.key) != (stage.name, stage.key):
            raise InputError(
                f"artifact manifest {path} belongs to {manifest.stage}/{manifest.key}; "
                f"{_remedy(path.parent)}"
            )
        return manifest

    def manifests(self, stage: str) -> list[Manifest]:
        """Return the manifests of a stage's finished artifacts, by the time they were finished."""
        selector = pafs.FileSelector(
            str(self._base / _plain(stage)), allow_not_found=True, recursive=True
        )
        found = [i for i in self._fs.get_file_info(selector) if i.base_name == MANIFEST]
        found.sort(key=lambda info: (info.mtime_ns or 0, info.path))
        return [self._manifest(PurePosixPath(info.path)) for info in found]

    def _manifest(self, path: PurePosixPath) -> Manifest:
        with self._fs.open_input_stream(str(path)) as stream:
            text = stream.read()
        try:
            manifest = _MANIFEST.validate_json(text)
        except ValueError:
            raise InputError(
                f"artifact manifest {path} is damaged; {_remedy(path.parent)}"
            ) from None
        for name in (manifest.attempt, *manifest.files):
            if _leaves(name):
                raise InputError(
                    f"artifact manifest {path} names {name!r}, which leaves the artifact's folder; "
                    f"{_remedy(path.parent)}"
                )
        return manifest

    def load(self, kind: type[T], manifest: Manifest) -> T:
        """Read an artifact after checking every file's digest.

        Raises InputError naming the file whose bytes are missing or changed.
        """
        if self.local:
            return kind.load(_verified(Path(self.path(manifest)), manifest))
        with tempfile.TemporaryDirectory(prefix="adapt_ray-") as folder:
            self.download(manifest, Path(folder))
            return kind.load(_verified(Path(folder), manifest))

    def download(self, manifest: Manifest, folder: Path) -> None:
        """Copy an artifact's files into a local folder; their digests are not checked."""
        source = PurePosixPath(self.path(manifest))
        for name in manifest.files:
            (folder / _plain(name)).parent.mkdir(parents=True, exist_ok=True)
            pafs.copy_files(
                str(source / _plain(name)),
                str(folder / name),
                source_filesystem=self._fs,
                destination_filesystem=pafs.LocalFileSystem(),
            )

    def publish(self, stage: Stage, product: Writable, notes: Mapping[str, Any]) -> Manifest:
        """Store a product under its key; of several racing writers, one artifact remains."""
        with tempfile.TemporaryDirectory(prefix="adapt_ray-") as scratch:
            product.save(Path(scratch))
            attempt = self.begin(stage)
            return self.seal(stage, attempt, self.add(stage, attempt, Path(scratch)), notes)

    def begin(self, stage: Stage) -> str:
        """Start an attempt at an artifact too large for one writer's disk, and return its name.

        Any number of processes may :meth:`add` files to it; nobody reads it before :meth:`seal`.
        """
        attempt = f"attempt-{uuid.uuid4().hex[:12]}"
        self._fs.create_dir(str(self._folder(stage) / attempt), recursive=True)
        return attempt

    def add(self, stage: Stage, attempt: str, folder: Path) -> dict[str, str]:
        """Copy all files of a local folder into an attempt, and return their digests by name."""
        pafs.copy_files(
            str(folder),
            str(self._folder(stage) / attempt),
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=self._fs,
        )
        return {
            path.relative_to(folder).as_posix(): digest_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def seal(
        self, stage: Stage, attempt: str, files: Mapping[str, str], notes: Mapping[str, Any]
    ) -> Manifest:
        """Make an attempt the artifact, unless another one was faster; return what remains."""
        folder = self._folder(stage)
        winner = self.find(stage)
        if winner is not None:
            self._fs.delete_dir(str(folder / attempt))
            return winner
        manifest = Manifest(
            stage.name,
            stage.key,
            stage.version,
            dict(stage.config),
            dict(stage.inputs),
            attempt,
            dict(files),
            dict(notes),
        )
        content = json.dumps(vars(manifest), indent=1).encode()
        write_whole(self._fs, str(folder / MANIFEST), content)
        return manifest

    def verify(self, manifest: Manifest) -> None:
        """Check every file's digest. Raises InputError naming the one that changed."""
        folder = self._base / manifest.stage / manifest.key / _plain(manifest.attempt)
        for name, expected in manifest.files.items():
            path = folder / _plain(name)
            if self.local:
                _refuse_link(Path(path), Path(folder.parent))
            _check(str(path), self._digest(str(path)), expected, folder.parent)

    def _digest(self, path: str) -> str | None:
        if self._fs.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._fs.open_input_stream(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def open(self, manifest: Manifest, name: str) -> pa.NativeFile:
        """Open one file of an artifact for reading at any place; its digest is not checked."""
        folder = self._base / manifest.stage / manifest.key / _plain(manifest.attempt)
        return self._fs.open_input_file(str(folder / _plain(name)))

    def discard(self, name: str) -> None:
        """Delete a folder below the artifacts (a stage's, or that of one key), if it is there."""
        path = str(self._base / _plain(name))
        if self._fs.get_file_info(path).type == pafs.FileType.Directory:
            self._fs.delete_dir(path)

    def path(self, manifest: Manifest) -> str:
        """Return where an artifact's files lie; on a local disk, a folder."""
        return str(self._base / manifest.stage / manifest.key / _plain(manifest.attempt))

    def location(self, manifest: Manifest) -> str:
        """Return where an artifact's files lie as users write it: a folder, or a URI."""
        scheme, found, _ = self.root.partition("://")
        return f"{scheme}://{self.path(manifest)}" if found else self.path(manifest)

    def _folder(self, stage: Stage) -> PurePosixPath:
        return self._base / _plain(stage.name) / stage.key


def write_whole(filesystem: pafs.FileSystem, path: str, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    Local: beside it, then rename. Object stores make a put visible only when it is complete.
    """
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.write_bytes(content)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def folder_name(text: str) -> str:
    """Return the name of one folder for any text: never a path, ``.`` or ``..``."""
    name = quote(text, safe=" ")
    return name.replace(".", "%2E") if set(name) == {"."} else name


def remove_folder(root: str) -> None:
    """Delete a folder or the objects below a URI, if there are any."""
    filesystem, path = open_root(root)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)


def replace_folder(source: Path, target: Path) -> None:
    """Move a finished folder into place, replacing what stood there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old)
    else:
        source.rename(target)


def _verified(folder: Path, manifest: Manifest) -> Path:
    for name, expected in manifest.files.items():
        path = folder / _plain(name)
        _refuse_link(path, folder.parent)
        found = digest_file(path) if path.is_file() else None
        _check(str(path), found, expected, folder.parent)
    return folder


def _refuse_link(path: Path, folder: Path) -> None:
    """Refuse a file that lies elsewhere: who may write there could change it when it is checked."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"artifact file {path} is a link out of the artifact's folder; {_remedy(folder)}"
        )


def _check(path: str, found: str | None, expected: str, folder: Path | PurePosixPath) -> None:
    if found is None:
        raise InputError(f"artifact file {path} is missing; {_remedy(folder)}")
    if found != expected:
        raise InputError(
            f"artifact file {path} changed after it was written: SHA-256 is {found[:12]}, its "
            f"manifest says {expected[:12]}; {_remedy(folder)}"
        )


def _plain(name: str) -> str:
    """Refuse names that would leave the artifact's folder."""
    if _leaves(name):
        raise InputError(f"artifact file name {name!r} leaves the artifact's folder")
    return name


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts


def _remedy(folder: Path | PurePosixPath) -> str:
    return f"delete {folder} to have it computed again"
