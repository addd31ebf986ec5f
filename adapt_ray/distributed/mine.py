"""Mining on Ray Data: texts are tokenized in blocks, patterns are mined in shards.

The encoded corpus is small (four bytes a token), so it goes once into the object store and every
task gets the first items it mines. Whole documents stand behind every shard: closedness is decided
locally and the union of the shards is exact.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from adapt_ray.config import MiningConfig, ModelConfig
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from adapt_ray.mining.closed import EncodedCorpus, Patterns, mine_patterns
from adapt_ray.mining.partition import first_item_shards, merge
from adapt_ray.progress import Progress
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

SHARDS_PER_CPU = 8  # enough that one heavy first item does not keep the others waiting
_TEXTS_PER_BLOCK = 4096


def tokenize(session: Session, texts: list[str], model: ModelConfig) -> EncodedCorpus:
    """Encode texts with a model's base tokenizer, without special tokens, in their order."""
    session.start()
    table = pa.table({"document": np.arange(len(texts)), "text": pa.array(texts, pa.string())})
    blocks = max(1, -(-len(texts) // _TEXTS_PER_BLOCK))
    dataset = ray.data.from_arrow(table).repartition(blocks)
    encoded = dataset.map_batches(
        functools.partial(_tokenize, model=model), batch_format="pyarrow", batch_size=None
    )
    documents: list[Any] = [None] * len(texts)
    for row in encoded.iter_rows():
        documents[row["document"]] = row["ids"]
    return EncodedCorpus.from_documents(documents)


def mine(
    session: Session, corpus: EncodedCorpus, limits: MiningConfig, tasks: int | None
) -> Patterns:
    """Mine all closed patterns in ``tasks`` shards (8 a CPU when None), with a progress bar."""
    session.start()
    shards = first_item_shards(corpus, limits, tasks or SHARDS_PER_CPU * session.cpus())
    if not shards:  # nothing is frequent
        return merge([])
    stored = ray.put(corpus)
    dataset = ray.data.from_items(
        [{"shard": number, "items": items} for number, items in enumerate(shards)],
        override_num_blocks=len(shards),
    ).map_batches(
        functools.partial(_mine_shard, corpus=stored, limits=limits),
        batch_format="pyarrow",
        batch_size=1,
    )
    found: dict[int, Patterns] = {}
    with Progress("mining", len(shards), "shard") as progress:
        for row in dataset.iter_rows():
            if "error" in row:
                raise InputError(f"mining: {row['error']}")
            found[row["shard"]] = _patterns(row)
            total = sum(len(part.support) for part in found.values())
            progress.update(f"{total} patterns")
            if total > limits.max_patterns:
                raise InputError(
                    f"more than mining.max_patterns = {limits.max_patterns} closed patterns: "
                    f"{total} in {len(found)} of {len(shards)} shards; raise mining.min_support, "
                    "lower mining.max_gap, set mining.max_span, or raise mining.max_patterns"
                )
    return merge([found[number] for number in sorted(found)])


def _tokenize(batch: Any, model: ModelConfig) -> pa.Table:
    fast = base_tokenizer(model).backend_tokenizer
    texts = batch["text"].to_pylist()
    ids = [encoding.ids for encoding in fast.encode_batch(texts, add_special_tokens=False)]
    column = pa.array(ids, pa.large_list(pa.int32()))
    return pa.table({"document": batch["document"], "ids": column})


def _mine_shard(batch: Any, corpus: Any, limits: MiningConfig) -> pa.Table:
    encoded = ray.get(corpus)
    items = np.asarray(batch["items"][0].as_py(), dtype=np.int32)
    try:
        patterns = mine_patterns(encoded, limits, items)
    except InputError as error:  # Ray Data would pass on its text only, inside a traceback
        return pa.table({"shard": batch["shard"], "error": [str(error)]})
    columns: dict[str, Any] = {
        name: pa.array([getattr(patterns, name)])
        for name in ("items", "offsets", "support", "starts")
    }
    return pa.table({"shard": batch["shard"], **columns})


def _patterns(row: Mapping[str, Any]) -> Patterns:
    return Patterns(
        np.asarray(row["items"], dtype=np.int32),
        np.asarray(row["offsets"], dtype=np.int64),
        np.asarray(row["support"], dtype=np.int64),
        np.asarray(row["starts"], dtype=np.int64),
    )
