"""What a search keeps besides the records: a journal to look at, and the points that it began with.

Neither is needed to go on: the records are what a search is repeated from.
"""

import fcntl
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from adapt_ray.artifacts import open_root, write_whole
from adapt_ray.search.space import Values


@contextmanager
def journal(storage: str, name: str) -> Iterator[optuna.storages.BaseStorage]:
    """Yield an Optuna storage that is a file, for optuna-dashboard to open while a sweep runs.

    It is begun anew: a study that goes on tells it everything again. It lies in ``search/`` of a
    storage that is a folder. Where that is none, or the same sweep runs twice and the other one
    writes it already, it is a temporary file that nobody looks at.
    """
    with tempfile.TemporaryDirectory(prefix="adapt_ray-") as aside, ExitStack() as until_then:
        path = Path(aside) / f"{name}.journal"
        if "://" not in storage:
            shared = Path(storage) / "search" / path.name
            shared.parent.mkdir(parents=True, exist_ok=True)
            if until_then.enter_context(_alone(shared.with_name(f".{path.name}.writer"))):
                path = shared
        for old in (path, path.with_name(f"{path.name}.lock")):  # a killed sweep leaves its lock
            old.unlink(missing_ok=True)
        yield optuna.storages.JournalStorage(JournalFileBackend(str(path)))


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Yield whether no other process is in here; the kernel notices when one is killed."""
    with path.open("w") as held:
        alone = True
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # a file system without locks: two sweeps at once are rarer
            pass
        yield alone


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
