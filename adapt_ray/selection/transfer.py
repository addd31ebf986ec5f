"""Selecting by another task's sensitivity map: does it matter whose sensitivity it is?"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from adapt_ray.artifacts import impatient, open_root
from adapt_ray.errors import InputError
from adapt_ray.modeling import ModuleInfo
from adapt_ray.sensitivity.measure import FILE, SensitivityMap


def map_of_another_task(place: str, modules: Sequence[ModuleInfo]) -> SensitivityMap:
    """Read a ``sensitivity.json``, a file or a URI, and check that it describes these modules.

    Raises InputError when it cannot be read, is no sensitivity map, or was measured on a model
    with other modules; the error names the first that differs.
    """
    filesystem, path = open_root(impatient(place), "method.map_from")
    try:
        kind = filesystem.get_file_info(path).type
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"method.map_from {place!r} cannot be read: {reason}") from None
    if kind != pafs.FileType.File:
        raise InputError(f"method.map_from is {place!r}, which is no file; give a {FILE}")
    with tempfile.TemporaryDirectory(prefix="adapt_ray-") as scratch:
        with filesystem.open_input_stream(path) as stream:
            (Path(scratch) / FILE).write_bytes(stream.read())
        try:
            measured = SensitivityMap.load(Path(scratch))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"method.map_from is {place!r}, which is no {FILE} of adapt_ray: "
                f"{type(error).__name__} {error}"
            ) from None
    _check_modules(place, measured.modules, modules)
    return measured


def _check_modules(place: str, found: Sequence[ModuleInfo], ours: Sequence[ModuleInfo]) -> None:
    for number in range(max(len(found), len(ours))):
        theirs, mine = found[number : number + 1], ours[number : number + 1]
        if list(theirs) != list(mine):
            raise InputError(
                f"method.map_from is {place!r}, measured on another model: its module "
                f"{number + 1} is {_described(theirs)}, this model's is {_described(mine)}"
            )


def _described(modules: Sequence[ModuleInfo]) -> str:
    return "".join(f"{m.name} with {m.parameters} parameters" for m in modules) or "missing"
