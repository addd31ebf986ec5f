"""What finished partitions of a mining stage leave behind until the whole is published.

Every partition is an artifact of its own: written aside, renamed, with digests. A job that was
killed finds them by the key of the stage and their first items, and mines the others only. What a
reached cap leaves is an artifact of another kind, which no reader of patterns takes for complete.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from adapt_ray.artifacts import ArtifactStore, Manifest, Stage
from adapt_ray.errors import InputError
from adapt_ray.mining.patterns import Patterns
from adapt_ray.mining.routing import Partition


@dataclass(frozen=True)
class Results:
    """The results of the partitions of one mining stage; light, and the same on every node."""

    storage: str
    stage: Stage  # of all patterns together

    def find(self, partition: Partition) -> tuple[Manifest | None, str]:
        """Return a finished partition whose bytes are as written, and what was wrong with it.

        A damaged one is deleted, so that it is mined again.
        """
        store, stage = ArtifactStore(self.storage), self._stage(partition)
        try:
            manifest = store.find(stage)
            if manifest is not None:
                store.verify(manifest)
            return manifest, ""
        except InputError as error:
            store.discard(f"{stage.name}/{stage.key}")
            return None, str(error).partition(";")[0]

    def save(self, partition: Partition, patterns: Patterns) -> None:
        """Publish a partition's patterns."""
        notes = {"patterns": len(patterns)}
        ArtifactStore(self.storage).publish(self._stage(partition), patterns, notes)

    def load(self, partition: Partition) -> Patterns:
        """Read the patterns of a finished partition, their bytes verified."""
        store, stage = ArtifactStore(self.storage), self._stage(partition)
        manifest = store.find(stage)
        if manifest is None:
            raise InputError(f"partition {stage.name}/{stage.key} vanished; start the job again")
        return store.load(Patterns, manifest)

    def discard(self) -> None:
        """Delete all of them."""
        ArtifactStore(self.storage).discard(self._name)

    def save_partial(self, patterns: Patterns, notes: Mapping[str, Any]) -> str:
        """Keep what a reached cap leaves; returns where."""
        content = hashlib.sha256()
        for array in (patterns.items, patterns.offsets, patterns.support, patterns.starts):
            content.update(array.tobytes())
        inputs = {"patterns": self.stage.key, "content": content.hexdigest()}
        store = ArtifactStore(self.storage)
        stage = Stage("partial_patterns", 1, {}, inputs)
        return store.path(store.publish(stage, _Partial(patterns), notes))

    @property
    def _name(self) -> str:
        return f"partitions/{self.stage.key}"

    def _stage(self, partition: Partition) -> Stage:
        inputs = {"patterns": self.stage.key, "partition": partition.identity}
        return Stage(self._name, 1, {}, inputs)


@dataclass(frozen=True)
class _Partial:
    """Patterns that are closed and true, but not all there are."""

    patterns: Patterns

    def save(self, folder: Path) -> None:
        self.patterns.save(folder)
        whole = folder / "patterns.parquet"
        table = pq.read_table(whole).replace_schema_metadata({"complete": "false"})
        pq.write_table(table, folder / "partial_patterns.parquet")
        whole.unlink()
