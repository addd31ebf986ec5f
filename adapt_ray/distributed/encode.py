"""Tokenizing on Ray Data: texts go out in blocks, documents come back in their order."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from adapt_ray.config import ModelConfig
from adapt_ray.data.cleaning import normaliser
from adapt_ray.data.strings import Strings
from adapt_ray.distributed.session import Session
from adapt_ray.mining.blocks import SCHEMA, write_blocks
from adapt_ray.progress import Progress
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

_BYTES_PER_BLOCK = 1 << 20  # of text; about a quarter of a million tokens


@dataclass(frozen=True)
class Encoding:
    """Texts to encode with a model's base tokenizer, without markers and special tokens.

    Texts that are nothing but markers are left out. Saving computes: what the tasks return is
    written as it comes.
    """

    session: Session
    texts: Strings
    markers: tuple[str, ...]
    model: ModelConfig

    def save(self, folder: Path) -> None:
        """Encode all texts into ``folder``, as EncodedCorpus and EncodedBlocks read it."""
        self.session.start()
        write_blocks(folder, self._blocks())

    def _blocks(self) -> Iterator[Any]:
        tables: list[Any] = [pa.table({"text": piece.column}) for piece in _pieces(self.texts)]
        dataset = ray.data.from_arrow(tables)
        dataset.context.execution_options.preserve_order = True
        encoded = dataset.map_batches(
            functools.partial(_encode, markers=self.markers, model=self.model),
            batch_format="pyarrow",
            batch_size=None,
        )
        with Progress("tokenizing", len(tables), "block") as progress:
            for block in encoded.iter_batches(batch_format="pyarrow", batch_size=None):
                yield block
                progress.update()


def _pieces(texts: Strings) -> list[Strings]:
    """Cut texts into runs of about equal size."""
    sizes = pc.binary_length(texts.column).to_numpy()
    piece_of = (np.cumsum(sizes) - sizes) // _BYTES_PER_BLOCK
    cuts = np.flatnonzero(np.diff(piece_of)) + 1
    bounds = [0, *cuts.tolist(), len(texts)]
    return [texts[start:stop] for start, stop in pairwise(bounds)]


# A worker process encodes many blocks with one tokenizer.
_tokenizer = functools.lru_cache(maxsize=1)(base_tokenizer)


def _encode(batch: pa.Table, markers: tuple[str, ...], model: ModelConfig) -> pa.Table:
    texts = filter(None, map(normaliser(markers), Strings(batch["text"])))
    fast: Any = _tokenizer(model).backend_tokenizer
    encodings = fast.encode_batch_fast(list(texts), add_special_tokens=False)
    ids = pa.array([encoding.ids for encoding in encodings], SCHEMA.field("tokens").type)
    return pa.table([ids], schema=SCHEMA)
