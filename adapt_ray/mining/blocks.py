"""An encoded corpus as a file that is written and read block by block, one row group each."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adapt_ray.artifacts import ArtifactStore, Manifest
from adapt_ray.mining.encoded import EncodedCorpus

SCHEMA = pa.schema([pa.field("tokens", pa.large_list(pa.int32()))])
_FILE = "documents.parquet"  # what EncodedCorpus reads as a whole


def write_blocks(folder: Path, blocks: Iterable[pa.Table]) -> None:
    """Write tables of documents (SCHEMA, one row each) as they come, none kept."""
    with pq.ParquetWriter(folder / _FILE, SCHEMA) as writer:
        for block in blocks:
            writer.write_table(block.cast(SCHEMA))


@dataclass(frozen=True)
class EncodedBlocks:
    """The blocks of a stored encoded corpus; light, and means the same on every node."""

    storage: str
    manifest: Manifest

    @cached_property
    def tokens(self) -> list[int]:
        """Tokens of each block (a document without any counts as one)."""
        with self._open() as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [group.column(0).num_values for group in groups]

    def read(self, block: int) -> EncodedCorpus:
        """Return the documents of one block."""
        with self._open() as file:
            column = file.read_row_group(block)["tokens"].combine_chunks()
        offsets = np.zeros(len(column) + 1, np.int64)
        np.cumsum(pc.list_value_length(column).to_numpy(), out=offsets[1:])
        return EncodedCorpus(pc.list_flatten(column).to_numpy(), offsets)

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(ArtifactStore(self.storage).open(self.manifest, _FILE))
