"""Mining on a real local Ray gives what one local search gives, on every path and after a stop."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from adapt_ray.artifacts import ArtifactStore, Stage
from adapt_ray.config import MiningConfig, ModelConfig
from adapt_ray.data.strings import Strings
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.distributed import encode, mine
from adapt_ray.distributed.encode import Encoding
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from adapt_ray.mining.blocks import EncodedBlocks, write_blocks
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.patterns import Patterns
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

pytestmark = pytest.mark.ray

MODEL = ModelConfig()
TEXTS = list(demo_rows()["train"].texts[:300])
FIELDS = ("items", "offsets", "support", "starts")


def local() -> EncodedCorpus:
    ids = base_tokenizer(MODEL)(TEXTS, add_special_tokens=False)["input_ids"]
    return EncodedCorpus.from_documents(ids)


class InBlocks:
    """Writes a corpus in blocks of a few documents."""

    def __init__(self, corpus: EncodedCorpus, size: int) -> None:
        self.corpus, self.size = corpus, size

    def save(self, folder: Path) -> None:
        self.corpus.save(folder)
        table = pq.read_table(folder / "documents.parquet")
        starts = range(0, table.num_rows, self.size)
        write_blocks(folder, [table.slice(start, self.size) for start in starts])


def stage_of(limits: MiningConfig) -> Stage:
    return Stage("patterns", 2, limits.key(), {})


@pytest.fixture
def blocks(tmp_path: Path) -> EncodedBlocks:
    """Return the encoded texts in seven blocks, in a store addressed by URI."""
    store = ArtifactStore(tmp_path.as_uri())
    stage = Stage("encoded", 2, {}, {"texts": "some"})
    return EncodedBlocks(store.root, store.publish(stage, InBlocks(local(), 45), {}))


def assert_equal(found: Patterns, expected: Patterns) -> None:
    assert len(expected) > 50
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_texts_come_back_encoded_in_their_order(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_BYTES_PER_BLOCK", 1000)
    marked = [f"[[ {text.replace(' ', '  ', 1)} ]]" for text in TEXTS]
    texts = Strings.of([*marked[:150], " ]] ", *marked[150:]])
    Encoding(session, texts, ("[[", "]]"), MODEL).save(tmp_path)
    encoded = EncodedCorpus.load(tmp_path)
    np.testing.assert_array_equal(encoded.offsets, local().offsets)
    np.testing.assert_array_equal(encoded.tokens, local().tokens)
    assert pq.ParquetFile(tmp_path / "documents.parquet").num_row_groups > 10


@pytest.mark.parametrize(
    ("parts", "limits"),
    [(1, MiningConfig()), (40, MiningConfig()), (3, MiningConfig(max_gap=2, max_span=5))],
)
def test_broadcast_partitions_equal_one_local_search(
    session: Session, blocks: EncodedBlocks, parts: int, limits: MiningConfig
) -> None:
    found = mine.mine(session, blocks, stage_of(limits), limits, parts)
    assert_equal(found, mine_patterns(local(), limits))


@pytest.mark.parametrize(
    ("parts", "most_tokens", "limits"),
    [
        (40, 1500, MiningConfig(max_length=3)),  # frequent first items are split
        (3, 6000, MiningConfig(min_support=25, max_gap=None, min_length=1)),
    ],
)
def test_shuffled_partitions_equal_one_local_search(
    session: Session,
    blocks: EncodedBlocks,
    parts: int,
    most_tokens: int,
    limits: MiningConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mine, "_BYTES_BROADCAST", 10**9)
    monkeypatch.setattr(mine, "_BYTES_SHUFFLED", 2**31 // most_tokens)
    found = mine.mine(session, blocks, stage_of(limits), limits, parts)
    assert_equal(found, mine_patterns(local(), limits))


def test_nothing_frequent_is_no_pattern(session: Session, blocks: EncodedBlocks) -> None:
    for memory_gb in (4.0, 1e-5):
        limits = MiningConfig(min_support=1000, memory_gb=memory_gb)
        assert len(mine.mine(session, blocks, stage_of(limits), limits, 4)) == 0


def partial_of(blocks: EncodedBlocks, error: str) -> Path:
    """Return the file of partial patterns that an error names."""
    match = re.search(r"kept as partial in (\S+);", error)
    assert match
    assert match[1].startswith(f"{blocks.storage.removeprefix('file://')}/artifacts/partial_patt")
    return Path(match[1]) / "partial_patterns.parquet"


def test_a_cap_on_patterns_keeps_them_as_partial_and_a_higher_one_goes_on(
    session: Session, blocks: EncodedBlocks
) -> None:
    whole = mine_patterns(local(), MiningConfig())
    stage = stage_of(MiningConfig())
    capped = MiningConfig(max_patterns=len(whole) // 2)
    with pytest.raises(InputError) as caught:
        mine.mine(session, blocks, stage, capped, 20)
    message = str(caught.value)
    assert "\n" not in message
    assert f"more than mining.max_patterns = {len(whole) // 2}" in message
    for option in ("min_support", "max_gap", "max_span"):
        assert f"mining.{option}" in message
    partial = partial_of(blocks, message)
    schema = pq.read_schema(partial)
    assert schema.metadata == {b"complete": b"false"}
    with pytest.raises(FileNotFoundError):
        Patterns.load(partial.parent)
    kept = pq.read_table(partial)
    rows = kept.select(["items", "support"]).to_pylist()
    assert 0 < kept.num_rows < len(whole)
    assert {
        tuple(row["items"]): row["support"] for row in rows
    }.items() <= whole.as_mapping().items()
    before = partition_files(blocks)
    assert before
    assert_equal(mine.mine(session, blocks, stage, MiningConfig(), 20), whole)
    after = partition_files(blocks)
    assert before.items() < after.items(), "a finished partition was mined again"


def partition_files(blocks: EncodedBlocks) -> dict[str, int]:
    """Return the files of finished partitions with their times of change."""
    root = Path(blocks.storage.removeprefix("file://")) / "artifacts" / "partitions"
    manifests = root.glob("*/*/manifest.json")
    return {
        str(path): path.stat().st_mtime_ns
        for manifest in manifests
        for path in manifest.parent.rglob("*")
        if path.is_file()
    }


def test_a_cap_on_time_ends_the_job(session: Session, blocks: EncodedBlocks) -> None:
    limits = MiningConfig(max_seconds=1e-3)
    with pytest.raises(InputError, match=r"not done after mining\.max_seconds = 0\.001; \d+ pat"):
        mine.mine(session, blocks, stage_of(limits), limits, 4)


@pytest.mark.parametrize("damage", ["manifest.json", "patterns.parquet"])
def test_a_damaged_partition_is_mined_again(
    session: Session, blocks: EncodedBlocks, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = MiningConfig()
    whole = mine.mine(session, blocks, stage_of(limits), limits, 10)
    finished = partition_files(blocks)
    path = sorted(path for path in finished if path.endswith(damage))[3]
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    again = mine.mine(session, blocks, stage_of(limits), limits, 10)
    assert_equal(again, whole)
    lines = capsys.readouterr().err
    assert "this partition is mined again" in lines
    assert damage in lines
    changed = {name for name, time in finished.items() if partition_files(blocks).get(name) != time}
    folder = str(Path(path).parents[0 if damage == "manifest.json" else 1])
    assert changed == {name for name in finished if name.startswith(folder)}


def test_memory_that_no_node_has_is_refused(session: Session, blocks: EncodedBlocks) -> None:
    """Ray would wait for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mine, "_BYTES_BROADCAST", 10**9)
        patch.setattr(mine, "_BYTES_SHUFFLED", 10**9)
        limits = MiningConfig(memory_gb=10**4)
        with pytest.raises(InputError, match="the largest node has"):
            mine.mine(session, blocks, stage_of(limits), limits, 4)
