"""A labelled corpus of any size: real sentences, resampled, among words drawn by Zipf's law.

A document is a sentence of a fixed pool with foreign words around it, about 40 tokens together. The
sentences bring what real text has: frequent phrases with and without gaps, and, once a sentence has
been drawn often enough, long patterns. The words around them make every document different and
bring the many pairs and triples that chance makes frequent. The class of a document is decided by
its sentence.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_BATCH = 10_000  # also the rows of a parquet row group
ROWS_PER_FILE = 100_000
CLASSES = 4
SCHEMA = pa.schema([pa.field("text", pa.string()), pa.field("label", pa.string())])

_SENTENCE_WORDS = (5, 30)
_POOL = 100_000  # sentences
_FOREIGN_WORDS = (10, 24)  # in a document, least and most
_HELD_OUT = 1_000  # rows of dev and of test


@dataclass(frozen=True)
class Recipe:
    """What documents are drawn from."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]  # the r-th is drawn in proportion to 1/r
    seed: int

    def batch(self, split: str, number: int, rows: int) -> pa.Table:
        """Return the first rows of a batch; the same for any size of the whole."""
        rng = np.random.default_rng([self.seed, *split.encode(), number])
        sentence = rng.integers(len(self.sentences), size=ROWS_PER_BATCH)
        before = rng.integers(_FOREIGN_WORDS[1] // 2 + 1, size=ROWS_PER_BATCH)
        total = rng.integers(_FOREIGN_WORDS[0], _FOREIGN_WORDS[1] + 1, size=ROWS_PER_BATCH)
        before = np.minimum(before, total)
        ends = np.cumsum(total)
        share = np.cumsum(1 / np.arange(1, len(self.words) + 1))
        drawn = np.searchsorted(share, rng.random(ends[-1]) * share[-1], side="right").tolist()
        texts, labels = [], []
        for row in range(rows):
            end = int(ends[row])
            start = end - int(total[row])
            foreign = [self.words[word] for word in drawn[start:end]]
            middle = int(before[row])
            chosen = int(sentence[row])
            texts.append(" ".join([*foreign[:middle], self.sentences[chosen], *foreign[middle:]]))
            labels.append(f"class {chosen % CLASSES}")
        return pa.table([texts, labels], schema=SCHEMA)


def sentences(texts: Iterable[str], seed: int) -> tuple[str, ...]:
    """Return the distinct sentences of 5 to 30 words, at most 100,000 of them, sampled."""
    fewest, most = _SENTENCE_WORDS
    found = dict.fromkeys(
        sentence
        for text in texts
        for sentence in map(" ".join, map(str.split, re.split(r"(?<=[.!?])\s+", text)))
        if fewest <= sentence.count(" ") + 1 <= most
    )
    pool = list(found)
    if len(pool) <= _POOL:
        return tuple(pool)
    kept = np.sort(np.random.default_rng(seed).choice(len(pool), _POOL, replace=False))
    return tuple(pool[i] for i in kept.tolist())


def real_texts(folder: Path) -> Iterator[str]:
    """Yield the training texts of every corpus in a folder, in the order of their names."""
    for file in sorted(folder.glob("*/train.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=["text"]):
            yield from map(str, batch.column(0).to_pylist())


def write_corpus(recipe: Recipe, documents: int, folder: Path) -> list[Path]:
    """Write train in files of 100,000 rows, and 1,000 rows each of dev and test.

    One batch is in memory at a time. Returns the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = -(-documents // ROWS_PER_FILE)
    written = []
    for file in range(files):
        first = file * ROWS_PER_FILE
        path = folder / f"train-{file:05d}-of-{files:05d}.parquet"
        _write(recipe, "train", range(first, min(first + ROWS_PER_FILE, documents)), path)
        written.append(path)
    for split in ("dev", "test"):
        path = folder / f"{split}.parquet"
        _write(recipe, split, range(_HELD_OUT), path)
        written.append(path)
    return written


def _write(recipe: Recipe, split: str, rows: range, path: Path) -> None:
    aside = path.with_suffix(".partial")
    with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as out:
        for first in range(rows.start, rows.stop, ROWS_PER_BATCH):
            size = min(ROWS_PER_BATCH, rows.stop - first)
            out.write_table(recipe.batch(split, first // ROWS_PER_BATCH, size))
    aside.rename(path)


def whole_words(vocabulary: Sequence[str]) -> tuple[str, ...]:
    """Return the entries of a tokenizer's vocabulary that are words of two or more letters."""
    return tuple(word for word in vocabulary if re.fullmatch(r"[a-z]{2,}", word))
