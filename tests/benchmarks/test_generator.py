"""The generated corpus: repeatable, nested, and of the shape that it promises."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generator import ROWS_PER_BATCH, Recipe, sentences, whole_words, write_corpus

POOL = (
    "the first sentence has these words .",
    "Another one, longer than the first.",
    "the third says nothing new at all",
)
WORDS = tuple(f"w{i}" for i in range(50))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(POOL, WORDS, seed=3)


def test_the_same_seed_repeats_and_others_differ(recipe: Recipe) -> None:
    first = recipe.batch("train", 0, 50)
    assert recipe.batch("train", 0, 50).equals(first)
    assert not Recipe(POOL, WORDS, seed=4).batch("train", 0, 50).equals(first)
    assert not recipe.batch("train", 1, 50).equals(first)
    assert not recipe.batch("dev", 0, 50).equals(first)


def test_a_larger_corpus_begins_with_the_smaller_one(recipe: Recipe, tmp_path: Path) -> None:
    read = {}
    for documents in (120, ROWS_PER_BATCH + 5):
        files = write_corpus(recipe, documents, tmp_path / str(documents))
        trains = [file for file in files if file.name.startswith("train")]
        read[documents] = pa.concat_tables([pq.read_table(file) for file in trains])
        assert read[documents].num_rows == documents
    assert read[ROWS_PER_BATCH + 5].slice(0, 120).equals(read[120])
    groups = pq.ParquetFile(trains[0]).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [10_000, 5]


def test_files_are_what_sources_read(recipe: Recipe, tmp_path: Path) -> None:
    names = [file.name for file in write_corpus(recipe, 7, tmp_path)]
    assert names == ["train-00000-of-00001.parquet", "dev.parquet", "test.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_every_document_holds_its_sentence_among_foreign_words(recipe: Recipe) -> None:
    table = recipe.batch("train", 0, 300)
    label_of: dict[str, set[str]] = {}
    for text, label in zip(*table.to_pydict().values(), strict=True):
        inside = [sentence for sentence in POOL if sentence in text]
        assert len(inside) == 1
        foreign = text.replace(inside[0], "").split()
        assert set(foreign) <= set(WORDS)
        assert 10 <= len(foreign) <= 24
        label_of.setdefault(inside[0], set()).add(label)
    assert {len(labels) for labels in label_of.values()} == {1}
    assert len(set.union(*label_of.values())) == 3


def test_foreign_words_follow_zipf() -> None:
    table = Recipe(("x y .",), WORDS, seed=0).batch("train", 0, 5_000)
    words = " ".join(map(str, table["text"].to_pylist())).split()
    counts = np.array([words.count(word) for word in WORDS])
    expected = counts.sum() / np.arange(1, 51) / np.sum(1 / np.arange(1, 51))
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_sentences_are_distinct_and_of_useful_length() -> None:
    texts = ["One two three four five. Too short! a  b c d\ne f", "One two three four five."]
    assert sentences([*texts, "word " * 31], seed=0) == ("One two three four five.", "a b c d e f")


def test_whole_words_of_a_vocabulary() -> None:
    assert whole_words(["[CLS]", "the", "##ing", "a", "1990", "film", "ü"]) == ("the", "film")
