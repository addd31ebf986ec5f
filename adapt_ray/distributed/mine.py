"""Mining on Ray Data: partitions of first items, each mined where all its documents are.

Closedness is decided in the partition and the union of the partitions is exact, however the
documents get there:

- *broadcast*: the encoded corpus goes once into the object store, and every task gets first items;
- *shuffled*, where three times the corpus exceed half of ``mining.memory_gb``: every block of
  documents is read by a task, which sends to each partition what decides about its first items.

Finished partitions are published one by one: a killed job goes on with the others.
"""

import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from adapt_ray.artifacts import ArtifactStore, Stage
from adapt_ray.config import MiningConfig
from adapt_ray.distributed.partitions import Results
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from adapt_ray.mining.blocks import EncodedBlocks
from adapt_ray.mining.closed import CapError, mine_masked, mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.masking import MaskedCorpus, mask
from adapt_ray.mining.partition import Shard, shards
from adapt_ray.mining.patterns import Patterns, merge
from adapt_ray.mining.routing import (
    Costs,
    Partition,
    Reach,
    add_costs,
    assemble,
    costs,
    divide,
    route,
    second_costs,
    too_heavy,
)
from adapt_ray.progress import Progress

# Partitions do not depend on the number of CPUs: a killed job may go on with others.
_TOKENS_PER_PARTITION = 500_000
_PARTITIONS = (16, 256)
# Half of a task's memory is for what it holds of the documents, by tokens: them and twice as much
# of places in them; where they were shuffled, once more, since they come in pieces. The other half
# is for the search.
_BYTES_BROADCAST = 12
_BYTES_SHUFFLED = 16
_BYTES_SENT = 4
_HALF_GIB = 1 << 29


@dataclass(frozen=True)
class _Search:
    """What every mining task knows."""

    partitions: list[Partition]
    limits: MiningConfig
    results: Results
    deadline: float | None  # in seconds since the epoch

    def run(self, number: int, mine: Callable[[MiningConfig, Shard], Patterns]) -> pa.Table:
        """Mine a partition and publish its patterns; one row says how it ended."""
        partition = self.partitions[number]
        caps: dict[str, float] = {"memory_gb": self.limits.memory_gb / 2}
        if self.deadline is not None:
            # The next to nothing that is left after the deadline ends the search as it begins.
            caps["max_seconds"] = max(self.deadline - time.time(), 1e-9)
        limits = partition.limits(self.limits).model_copy(update=caps)
        try:
            patterns = partition.own(mine(limits, partition.shard))
        except CapError as error:
            partial = partition.own(error.partial)
            columns = [partial.items, partial.offsets, partial.support, partial.starts]
            row: list[Any] = [number, len(partial), self._reason(error), *columns]
        else:
            self.results.save(partition, patterns)
            row = [number, len(patterns), None, None, None, None, None]
        cells = [pa.array([cell], kind) for cell, kind in zip(row, _OUTCOME.types, strict=True)]
        return pa.table(cells, schema=_OUTCOME)

    def _reason(self, error: CapError) -> str:
        if self.deadline is not None and time.time() > self.deadline:
            return f"not done after mining.max_seconds = {self.limits.max_seconds:g}"
        reason = str(error).partition(":")[0]
        if "memory_gb" in reason:
            return f"a search needs more than half of mining.memory_gb = {self.limits.memory_gb:g}"
        return reason.replace("max_patterns", "mining.max_patterns")


_FOUND = {
    "items": pa.large_list(pa.int32()),
    "offsets": pa.large_list(pa.int64()),
    "support": pa.large_list(pa.int64()),
    "starts": pa.large_list(pa.int64()),
}
_OUTCOME = pa.schema(
    [
        pa.field("partition", pa.int64()),
        pa.field("patterns", pa.int64()),
        # By which cap, if any; the patterns found until then follow.
        *(pa.field(name, kind) for name, kind in {"stopped": pa.string(), **_FOUND}.items()),
    ]
)


@dataclass(frozen=True)
class _Plan:
    """How a corpus is divided, and how some of its partitions are mined."""

    partitions: list[Partition]
    start: Callable[[_Search, list[int]], Any]  # returns a dataset of outcomes
    most: float  # cost of the partitions that one dataset may mine


def mine(
    session: Session, blocks: EncodedBlocks, stage: Stage, limits: MiningConfig, parts: int | None
) -> Patterns:
    """Mine all closed patterns of a stored corpus, with a progress bar.

    ``stage`` is that of the patterns: partitions that were finished for it before are not mined
    again. Raises CapError when a cap is reached, and says where the partial result lies; InputError
    when a partition cannot fit ``mining.memory_gb``.
    """
    session.start()
    deadline = time.time() + limits.max_seconds if limits.max_seconds else None
    plan = _plan(session, blocks, limits, parts)
    partitions, results = plan.partitions, Results(blocks.storage, stage)
    search = _Search(partitions, limits, results, deadline)
    found = [results.find(partition) for partition in partitions]
    done = {n: int(m.notes["patterns"]) for n, (m, _) in enumerate(found) if m is not None}
    left = [n for n in range(len(partitions)) if n not in done]
    cost = sum(partitions[n].cost for n in left)
    progress = Progress("mining", len(partitions), "partition", done=len(done), cost=cost)
    with progress:
        for problem in filter(None, (problem for _, problem in found)):
            progress.write(f"mining: {problem}; this partition is mined again")
        if done:
            progress.write(f"mining: {len(done)} of {len(found)} partitions are done already")
        for outcome in _outcomes(plan, search, left):
            number, stopped = outcome["partition"][0].as_py(), outcome["stopped"][0].as_py()
            if stopped is not None:
                raise _stopped(search, done, stopped, _partial(outcome))
            done[number] = outcome["patterns"][0].as_py()
            total = sum(done.values())
            progress.update(f"{total} patterns", partitions[number].cost)
            if total > limits.max_patterns:
                reason = f"more than mining.max_patterns = {limits.max_patterns} closed patterns"
                raise _stopped(search, done, reason, merge([]))
    return merge([results.load(partition) for partition in partitions])


def _outcomes(plan: _Plan, search: _Search, left: list[int]) -> Iterator[pa.Table]:
    """Yield a table of one row for each partition as it ends."""
    for numbers in _waves(plan, left):
        dataset = plan.start(search, numbers)
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=1)


def _waves(plan: _Plan, left: list[int]) -> list[list[int]]:
    """Divide the partitions that are left among datasets."""
    waves: list[list[int]] = []
    cost = 0
    for number in left:
        cost += plan.partitions[number].cost
        if not waves or cost > plan.most:
            waves.append([])
            cost = plan.partitions[number].cost
        waves[-1].append(number)
    return waves


def _partial(outcome: pa.Table) -> Patterns:
    return Patterns(*(pc.list_flatten(outcome[name]).to_numpy() for name in _FOUND))


def _stopped(search: _Search, done: dict[int, int], reason: str, partial: Patterns) -> CapError:
    """Keep what was found and return the error that says so."""
    parts = [search.results.load(search.partitions[number]) for number in sorted(done)]
    patterns = merge([*parts, partial])
    notes = {"stopped": reason, "patterns": len(patterns), "partitions": len(done)}
    path = search.results.save_partial(patterns, notes | {"of": len(search.partitions)})
    message = (
        f"mining: {reason}; {len(patterns)} patterns found, {len(done)} of "
        f"{len(search.partitions)} partitions finished, kept as partial in {path}; raise "
        "mining.min_support, lower mining.max_gap, set or lower mining.max_span, or raise the cap: "
        "finished partitions are not mined again"
    )
    return CapError(message, patterns, len(done), len(search.partitions))


def _plan(
    session: Session, blocks: EncodedBlocks, limits: MiningConfig, parts: int | None
) -> _Plan:
    tokens = sum(blocks.tokens)
    parts = parts or int(np.clip(tokens // _TOKENS_PER_PARTITION, *_PARTITIONS))
    if _BYTES_BROADCAST * tokens <= limits.memory_gb * _HALF_GIB:
        return _broadcast(blocks, limits, parts)
    return _shuffled(blocks, limits, parts, session.cpus())


def _broadcast(blocks: EncodedBlocks, limits: MiningConfig, parts: int) -> _Plan:
    corpus = mask(
        ArtifactStore(blocks.storage).load(EncodedCorpus, blocks.manifest), limits.min_support
    )
    memory = _fitting(_BYTES_BROADCAST * corpus.tokens.size)
    partitions = [Partition(shard, _cost(corpus, shard)) for shard in shards(corpus, parts)]
    stored = ray.put(corpus)

    def start(search: _Search, numbers: list[int]) -> Any:
        def mine_one(batch: pa.Table) -> pa.Table:
            number = batch["number"][0].as_py()
            return search.run(number, functools.partial(mine_masked, ray.get(stored)))

        return _numbered(numbers).map_batches(
            mine_one, batch_format="pyarrow", batch_size=1, memory=memory
        )

    return _Plan(partitions, start, math.inf)


def _cost(corpus: MaskedCorpus, shard: Shard) -> int:
    places = corpus.occurrences[np.searchsorted(corpus.vocabulary, shard.items)]
    return int(places.sum()) // shard.part[1]


def _shuffled(blocks: EncodedBlocks, limits: MiningConfig, parts: int, cpus: int) -> _Plan:
    reach = Reach.of(limits)
    most_tokens = max(1, int(limits.memory_gb * _HALF_GIB) // _BYTES_SHUFFLED)
    total = _add_up(blocks, lambda block: {0: costs(block, reach)}).get(0, add_costs([]))
    seconds: dict[int, Costs] = {}
    if reach is not None and (heavy := too_heavy(total, limits.min_support, most_tokens)):
        near = reach
        seconds = _add_up(
            blocks, lambda block: {item: second_costs(block, item, near) for item in heavy}
        )
    partitions = divide(total, seconds, limits, parts, most_tokens)

    def start(search: _Search, numbers: list[int]) -> Any:
        wanted = [partitions[number] for number in numbers]

        def send(batch: pa.Table) -> pa.Table:
            routed = route(blocks.read(batch["number"][0].as_py()), wanted, reach)
            return pa.table([routed.partitions, routed.tokens, routed.lengths], schema=_SENT)

        def mine_one(rows: pa.Table) -> pa.Table:
            tokens, lengths = (
                [piece.values.to_numpy() for piece in rows[name]] for name in ("tokens", "lengths")
            )
            number = numbers[rows["partition"][0].as_py()]
            return search.run(number, functools.partial(mine_patterns, assemble(tokens, lengths)))

        sent = _numbered(range(len(blocks.tokens))).map_batches(
            send, batch_format="pyarrow", batch_size=1
        )
        memory = _fitting(_BYTES_SHUFFLED * max(partition.cost for partition in wanted))
        return sent.groupby("partition", num_partitions=len(numbers)).map_groups(
            mine_one, batch_format="pyarrow", memory=memory
        )

    # What is on its way at a time takes no more, for each CPU, than half of a task's memory.
    return _Plan(partitions, start, most_tokens * _BYTES_SHUFFLED // _BYTES_SENT * cpus)


_SENT = pa.schema(
    [
        pa.field("partition", pa.int64()),
        pa.field("tokens", pa.large_list(pa.int32())),
        pa.field("lengths", pa.large_list(pa.int64())),
    ]
)


def _add_up(
    blocks: EncodedBlocks, count: Callable[[EncodedCorpus], Mapping[int, Costs]]
) -> dict[int, Costs]:
    """Return costs over all blocks, for each of the keys that ``count`` gives."""

    def counted(batch: pa.Table) -> Iterator[pa.Table]:
        for key, found in count(blocks.read(batch["number"][0].as_py())).items():
            keys = np.full(found.items.size, key, np.int64)
            columns = [keys, found.items, found.support, found.tokens]
            yield pa.table(columns, names=["key", "items", "support", "tokens"])

    dataset = _numbered(range(len(blocks.tokens))).map_batches(
        counted, batch_format="pyarrow", batch_size=1
    )
    parts: dict[int, list[Costs]] = defaultdict(list)
    for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
        keys, *columns = (column.to_numpy() for column in table.columns)
        for key in np.unique(keys).tolist():
            parts[key].append(Costs(*(column[keys == key] for column in columns)))
    return {key: add_costs(found) for key, found in parts.items()}


def _numbered(numbers: Sequence[int]) -> Any:
    """Return a dataset with one block for each number, in this order."""
    rows = [{"number": number} for number in numbers]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _fitting(documents: int) -> int:
    """Return the bytes that a task asks Ray for: its documents, and as much for the search.

    Raises InputError where no node has them.
    """
    memory, gib = 2 * documents, 2 * _HALF_GIB
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
    if memory > most:
        raise InputError(
            f"a mining task needs {memory / gib:.2g} GiB, the largest node has {most / gib:.2g}; "
            "lower mining.memory_gb"
        )
    return memory
