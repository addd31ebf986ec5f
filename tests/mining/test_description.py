"""Facts of task tokens against a corpus small enough to count by hand."""

import numpy as np
import pytest

from adapt_ray.config import ModelConfig
from adapt_ray.mining.description import LOOKED_AT, describe
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.report.tokens import TokenFacts
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

TEXTS = [
    "We saw New York City today.",
    "In the fall New York was cold.",
    "its new York is far, new brave York too",
    "They say a new York rose",
    "Nothing here.",
]
CLASSES = np.array([[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])


def described(texts: list[str] = TEXTS) -> tuple[dict[str, TokenFacts], int]:
    tokenizer = base_tokenizer(ModelConfig())
    corpus = EncodedCorpus.from_documents(tokenizer(texts, add_special_tokens=False)["input_ids"])
    phrases = ["new york city", "new york", "in the"]
    ids = tokenizer(phrases, add_special_tokens=False)["input_ids"]
    tokens = TokenSet(tuple(map(tuple, ids)), len(tokenizer), 1, None)
    classes = np.resize(CLASSES, (len(texts), 2))
    facts, covered = describe(tokens, [0.1, 0.2, 0.3], corpus, classes, texts, tokenizer)
    assert [one.text for one in facts] == phrases
    return {one.text: one for one in facts}, covered


def test_facts_are_counted_in_texts() -> None:
    facts, covered = described()
    city, york, link = facts["new york city"], facts["new york"], facts["in the"]
    assert (city.support, york.support, link.support) == (1, 4, 1)
    assert (city.inserted, york.inserted, link.inserted) == (1, 3, 1)  # the longer one wins
    assert covered == 4
    assert york.present == (2.5, 1.5)
    assert (city.perplexity, york.perplexity) == (0.1, 0.2)


def test_casing_is_that_of_the_texts() -> None:
    """Both words have a capital in two texts; in two others "new" has none."""
    facts, _ = described()
    assert facts["new york city"].kind == "names"
    assert facts["new york"].kind == "phrases of the field"
    assert facts["in the"].kind == "connectives"
    facts, _ = described([*TEXTS, "The old New York is far", "So, New York it is"])
    assert facts["new york"].kind == "names"


def test_gaps_are_told_of_a_bounded_number_of_texts() -> None:
    texts = ["a new bold York"] * 10 + ["a new York"] * 30
    facts, _ = described(texts)
    assert facts["new york"].gapped == 0.25
    facts, _ = described(["a new York"] * LOOKED_AT + texts)
    assert facts["new york"].gapped == 0


def test_other_texts_are_refused() -> None:
    tokenizer = base_tokenizer(ModelConfig())
    corpus = EncodedCorpus.from_documents([[2047, 2259, 7]])
    tokens = TokenSet(((2047, 2259),), len(tokenizer), 1, None)
    with pytest.raises(ValueError, match="text 0 is not the one"):
        describe(tokens, [0.1], corpus, np.ones((1, 2)), ["New York"], tokenizer)
    with pytest.raises(ValueError, match="2 texts"):
        describe(tokens, [0.1], corpus, np.ones((1, 2)), ["New York", "b"], tokenizer)


def test_no_tokens_are_no_facts() -> None:
    corpus = EncodedCorpus.from_documents([[5]])
    assert describe(TokenSet((), 10, 1, None), [], corpus, np.ones((1, 2)), ["a"], None) == ((), 0)
