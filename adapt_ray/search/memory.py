"""What a search keeps besides the records: a journal to look at, and the points that it began with.

Neither is needed to go on: the records are what a search is repeated from.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from adapt_ray.artifacts import open_root, write_whole
from adapt_ray.search.space import Values


def journal(path: Path) -> optuna.storages.BaseStorage:
    """Return an Optuna storage that is a file, for optuna-dashboard to open while a sweep runs.

    It is begun anew: a study that goes on tells it everything again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, path.with_name(f"{path.name}.lock")):  # a killed sweep leaves its lock
        old.unlink(missing_ok=True)
    backend = JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)


def read_points(storage: str, name: str) -> Mapping[str, Sequence[Values]] | None:
    """Return the points that a search began with, by contender; None before its first start."""
    filesystem, root = open_root(storage)
    try:
        with filesystem.open_input_stream(f"{root}/search/{name}.json") as source:
            found: Mapping[str, Sequence[Values]] = json.loads(source.read())
    except FileNotFoundError:
        return None
    return found


def write_points(storage: str, name: str, points: Mapping[str, Sequence[Values]]) -> None:
    """Keep the points that a search begins with: earlier sweeps' records may grow meanwhile."""
    filesystem, root = open_root(storage)
    filesystem.create_dir(f"{root}/search", recursive=True)
    write_whole(filesystem, f"{root}/search/{name}.json", json.dumps(points, indent=1).encode())
