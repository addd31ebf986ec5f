"""What a killed run goes on from.

    <root>/checkpoints/<run_id>/step-<n>/<files>   what the workers saved after n steps
    <root>/checkpoints/<run_id>/latest.json        which step is whole, and where the run stood

Every worker writes its files aside and moves them into place; when all have, the first worker
replaces ``latest.json`` in one atomic step. Readers go by it alone and check every file's digest: a
save that was cut short is never read, on a disk as on an object store. The folder belongs to its
run alone: DeepSpeed's files in it are pickled, and nothing else may be loaded from there.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from adapt_ray.artifacts import digest_file, open_root, write_whole
from adapt_ray.errors import InputError
from adapt_ray.training.world import World

_FOLDER = "checkpoints"
_LATEST = "latest.json"
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, below a storage root on any pyarrow filesystem.

    ``setting`` (JSON) is what must be the same for a run to go on bit for bit, the number of
    workers above all: a checkpoint of another setting is passed over, and the run starts again.
    """

    def __init__(self, root: str, run_id: str, world: World, setting: Mapping[str, Any]) -> None:
        self._fs, path = open_root(root)
        self._folder = PurePosixPath(path) / _FOLDER / run_id
        self._local = isinstance(self._fs, pafs.LocalFileSystem)
        self._world = world
        self._setting = dict(setting)

    def save(self, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Keep the state after ``step`` steps; every worker calls it after the same step.

        ``write`` puts this worker's files into an empty folder, under names that no other worker
        uses. ``state`` is JSON, and that of the first worker counts.
        """
        target = self._folder / f"step-{step}"
        with self._scratch() as scratch:
            write(scratch)
            files = _digests(scratch)
            for name in files:
                self._place(scratch / name, target / name)
        written = self._world.gather(files)  # beyond this point, all files are in place
        if self._world.rank == 0:
            every = {name: digest for part in written for name, digest in part.items()}
            latest = {"folder": target.name, "setting": self._setting, "files": every}
            content = json.dumps({**latest, "state": dict(state)}, allow_nan=False).encode()
            write_whole(self._fs, str(self._folder / _LATEST), content)
            self._tidy(target.name)

    def load(self, read: Callable[[Path], None]) -> dict[str, Any] | None:
        """Read the latest checkpoint on every worker and return its state, or None without one.

        ``read`` gets a folder with the files of all workers. Raises InputError when a file is
        missing or has changed.
        """
        latest = self._world.gather(self._latest())[0]
        if latest is None:
            return None
        if latest["setting"] != self._setting:
            _log.warning(
                "%s was left by a run under %s; this one, under %s, starts again",
                self._folder,
                latest["setting"],
                self._setting,
            )
            return None
        with self._fetched(latest["folder"], latest["files"]) as folder:
            read(folder)
        return dict(latest["state"])

    def _latest(self) -> dict[str, Any] | None:
        path = str(self._folder / _LATEST)
        if self._fs.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._fs.open_input_stream(path) as stream:
            try:
                return dict(json.loads(stream.read()))
            except ValueError:
                raise InputError(f"checkpoint {path} is damaged; {self._remedy()}") from None

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Give this worker an empty folder: where a move into place is a rename, if it can be."""
        if self._local:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        parent = str(self._folder) if self._local else None
        with tempfile.TemporaryDirectory(prefix=".worker-", dir=parent) as folder:
            yield Path(folder)

    def _place(self, source: Path, target: PurePosixPath) -> None:
        self._fs.create_dir(str(target.parent), recursive=True)
        if self._local:
            source.replace(str(target))
        else:
            pafs.copy_files(
                str(source),
                str(target),
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=self._fs,
            )

    @contextmanager
    def _fetched(self, step: str, files: Mapping[str, str]) -> Iterator[Path]:
        """Give a local folder with the verified files of a checkpoint."""
        stored = self._folder / step
        if self._local:
            self._verify(Path(stored), step, files)
            yield Path(stored)
            return
        with tempfile.TemporaryDirectory(prefix="adapt_ray-") as folder:
            pafs.copy_files(
                str(stored),
                folder,
                source_filesystem=self._fs,
                destination_filesystem=pafs.LocalFileSystem(),
            )
            self._verify(Path(folder), step, files)
            yield Path(folder)

    def _verify(self, folder: Path, step: str, files: Mapping[str, str]) -> None:
        for name, expected in files.items():
            path = folder / name
            if not path.is_file() or digest_file(path) != expected:
                raise InputError(
                    f"checkpoint file {self._folder / step / name} is missing or changed after it "
                    f"was written; {self._remedy()}"
                )

    def _tidy(self, keep: str) -> None:
        """Delete earlier steps, and what killed workers left: no worker writes at this time."""
        for info in self._fs.get_file_info(pafs.FileSelector(str(self._folder))):
            if info.base_name not in (keep, _LATEST):
                if info.type == pafs.FileType.Directory:
                    self._fs.delete_dir(info.path)
                else:
                    self._fs.delete_file(info.path)

    def _remedy(self) -> str:
        return f"delete {self._folder} to have the run start again"


def last_saved(root: str, run_id: str) -> str:
    """Return the name of a run's last checkpoint; empty where it has none that can be read."""
    filesystem, path = open_root(root)
    try:
        with filesystem.open_input_stream(f"{path}/{_FOLDER}/{run_id}/{_LATEST}") as stream:
            return str(json.loads(stream.read())["folder"])
    except (OSError, ValueError):  # what is wrong with it is told when the run begins
        return ""


def discard(root: str, run_id: str) -> None:
    """Delete the checkpoints of a run that has its record, if there are any."""
    filesystem, path = open_root(root)
    folder = str(PurePosixPath(path) / _FOLDER / run_id)
    if filesystem.get_file_info(folder).type == pafs.FileType.Directory:
        filesystem.delete_dir(folder)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}
