"""Classes of documents and what sequences say of them."""

import math

import numpy as np
import pytest

from adapt_ray.config import MiningConfig
from adapt_ray.mining.classes import classes_with, document_classes, mutual_information
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus


def test_a_text_is_shared_out_among_the_classes_of_its_rows() -> None:
    texts = np.array([7, 3, 7, 9, 3, 7])
    rows = np.array([10, 11, 12, 13, 11, 14])  # row 11 is repeated by oversampling
    labels = np.array([0, 1, 0, 2, 1, 2])
    wanted = np.array([[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(document_classes(texts, rows, labels, 3), wanted)


def test_information_is_that_of_the_joint_table() -> None:
    """Nothing for independence, ln 2 for a sequence that decides between two equal classes."""
    present = np.array([[2.0, 2.0], [4.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    found = mutual_information(present, np.array([4.0, 4.0]))
    by_hand = 3 / 8 * math.log(3 / 2) + 1 / 8 * math.log(1 / 2)
    np.testing.assert_allclose(found, [0, math.log(2), 0, 2 * by_hand], atol=1e-12)


def test_patterns_are_counted_in_documents_of_each_class() -> None:
    corpus = EncodedCorpus.from_documents([[1, 2, 1, 2], [1, 5, 2], [3, 4], [4, 3, 4], []])
    patterns = mine_patterns(corpus, MiningConfig(min_support=2, max_gap=1))
    classes = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 1], [1, 0]])
    found = classes_with(patterns, corpus, classes, 1)
    assert dict(zip(patterns.as_mapping(), found.tolist(), strict=True)) == {
        (1, 2): [1.5, 0.5],
        (3, 4): [0, 2],
    }
    np.testing.assert_allclose(found.sum(1), patterns.support)


def test_classes_of_other_documents_are_refused() -> None:
    corpus = EncodedCorpus.from_documents([[1, 2], [1, 2]])
    patterns = mine_patterns(corpus, MiningConfig(min_support=2))
    with pytest.raises(ValueError, match="3 documents for a corpus of 2"):
        classes_with(patterns, corpus, np.ones((3, 1)), 1)
