"""Telling whether every node sees the same storage, before hours are spent on one that is not.

The driver lights a beacon, which is a small file in the storage, and every node looks for it and
tries to write beside it. A folder that each node has for itself is found out at once.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow.fs as pafs

from adapt_ray.artifacts import open_root, write_whole
from adapt_ray.errors import InputError


@dataclass(frozen=True)
class Beacon:
    """A file in a storage that whoever shares the storage sees.

    ``field`` is what the configuration calls the storage.
    """

    storage: str
    name: str
    field: str = "storage"

    def problem(self) -> str | None:
        """Say what is wrong with the storage as this process sees it, or return None."""
        filesystem, path = _place(self.storage, self.name)
        try:
            with filesystem.open_input_stream(path) as stream:
                found = stream.read().decode(errors="replace")
        except FileNotFoundError:
            return "does not see there what the driver has written"
        except OSError as error:
            return f"cannot read there: {_reason(error)}"
        if found != self.name:
            return "reads there something else than the driver has written"
        own = f"{path}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            write_whole(filesystem, own, b"")
            filesystem.delete_file(own)
        except OSError as error:
            return f"cannot write there: {_reason(error)}"
        return None

    def require(self, where: str) -> None:
        """Raise InputError, naming the node, unless it shares the storage with the driver."""
        problem = self.problem()
        if problem:
            raise not_shared(self, {where: problem})


@contextmanager
def lit(storage: str, field: str = "storage") -> Iterator[Beacon]:
    """Light a beacon, and put it out in the end.

    Raises InputError when this process cannot write into the storage.
    """
    beacon = Beacon(storage, uuid.uuid4().hex, field)
    filesystem, path = _place(storage, beacon.name)
    try:
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        write_whole(filesystem, path, beacon.name.encode())
    except OSError as error:
        raise InputError(f"{field} {storage!r} cannot be written: {_reason(error)}") from None
    try:
        yield beacon
    finally:
        _put_out(filesystem, path)


def not_shared(beacon: Beacon, problems: dict[str, str]) -> InputError:
    """Return the error that says which nodes do not share a storage."""
    listed = "; ".join(f"node {node} {problem}" for node, problem in problems.items())
    return InputError(
        f"{beacon.field} {beacon.storage!r} is not shared by all nodes: {listed}. Give a folder "
        "that is mounted on every node, or a URI such as s3://bucket/folder, with "
        f"--{beacon.field}"
    )


def _place(storage: str, name: str) -> tuple[pafs.FileSystem, str]:
    filesystem, path = open_root(storage)
    return filesystem, f"{path}/.beacon-{name}"


def _put_out(filesystem: pafs.FileSystem, path: str) -> None:
    if filesystem.get_file_info(path).type == pafs.FileType.File:
        filesystem.delete_file(path)


def _reason(error: OSError) -> str:
    return " ".join(str(error).split())
