"""What is known about each task token of a corpus: the facts that the token report shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.kernel_occurrences import count_classes, locate, occurrences
from adapt_ray.mining.phrases import is_capitalised, kind_of
from adapt_ray.mining.scoring import TokenSet
from adapt_ray.report.tokens import TokenFacts
from adapt_ray.tokenization.matcher import Matcher

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Occurrences of a token, each from another text, that its casing and its gaps are judged by.
LOOKED_AT = 50
_TEXTS_AT_ONCE = 1000


def describe(
    tokens: TokenSet,
    perplexity: Sequence[float],
    corpus: EncodedCorpus,
    classes: Float64,
    texts: Sequence[str],
    tokenizer: Any,
) -> tuple[tuple[TokenFacts, ...], int]:
    """Return the facts of each token, and in how many documents any token is inserted.

    ``perplexity`` [n_tokens]; ``classes`` [n_documents, n_classes] with rows that sum to 1;
    ``texts`` [n_documents] are the documents' texts, their casing as written; ``tokenizer`` is the
    Hugging Face tokenizer that encoded them. Raises ValueError when texts and documents differ.
    """
    documents = corpus.offsets.size - 1
    if not len(texts) == len(classes) == documents:
        raise ValueError(f"{len(texts)} texts, {len(classes)} classes, {documents} documents")
    if not len(tokens):
        return (), 0
    order = sorted(range(len(tokens)), key=tokens.sequences.__getitem__)
    find = occurrences(
        corpus.tokens,
        corpus.offsets,
        np.array([item for i in order for item in tokens.sequences[i]], np.int32),
        np.cumsum([0, *(len(tokens.sequences[i]) for i in order)]),
        tokens.max_gap,
        tokens.max_span,
    )
    present = np.empty((len(tokens), classes.shape[1]))
    support = np.empty(len(tokens), np.int64)
    # A last column of ones counts the documents themselves.
    counted = count_classes(find, np.hstack([classes, np.ones((documents, 1))]))
    present[order], support[order] = counted[:, :-1], counted[:, -1].astype(np.int64)
    number, positions = locate(find, LOOKED_AT)
    number = np.array(order)[number]
    gapped = _gapped(tokens, number, positions)
    capitalised = _capitalised(tokens, number, positions, corpus, texts, tokenizer)
    inserted, covered = _inserted(tokens, corpus)
    texts_of = [
        " ".join(tokenizer.decode(list(sequence), clean_up_tokenization_spaces=False).split())
        for sequence in tokens.sequences
    ]
    masked = not any(character.isdigit() for text in texts_of for character in text)
    facts = tuple(
        TokenFacts(
            text=text,
            kind=kind_of(text, capitalised[i], masked=masked),
            support=int(support[i]),
            perplexity=float(perplexity[i]),
            inserted=int(inserted[i]),
            gapped=float(gapped[i]),
            present=tuple(present[i].tolist()),
        )
        for i, text in enumerate(texts_of)
    )
    return facts, covered


def _inserted(tokens: TokenSet, corpus: EncodedCorpus) -> tuple[Int64, int]:
    """Return in how many documents each token is inserted, and in how many any is."""
    matcher = Matcher(tokens.sequences, np.arange(len(tokens)), tokens.max_gap, tokens.max_span)
    best = matcher.best(corpus.tokens, corpus.offsets)
    at = np.flatnonzero(best >= 0)
    document = np.searchsorted(corpus.offsets, at, "right") - 1
    pairs = np.unique(document * len(tokens) + best[at])
    return np.bincount(pairs % len(tokens), minlength=len(tokens)), np.unique(document).size


def _gapped(tokens: TokenSet, number: Int64, positions: Int64) -> Float64:
    """Return the share of each token's occurrences that hold a foreign token."""
    lengths = np.array([len(sequence) for sequence in tokens.sequences])[number]
    width = positions[np.arange(number.size), lengths - 1] - positions[:, 0] + 1
    found = np.bincount(number, minlength=len(tokens))
    return np.bincount(number, width > lengths, len(tokens)) / np.maximum(found, 1)


def _capitalised(
    tokens: TokenSet,
    number: Int64,
    positions: Int64,
    corpus: EncodedCorpus,
    texts: Sequence[str],
    tokenizer: Any,
) -> list[float | None]:
    """Return the share of each token's occurrences that are capitalised, None where none tells."""
    document = np.searchsorted(corpus.offsets, positions[:, 0], "right") - 1
    by_document = np.argsort(document, kind="stable")
    verdicts = np.zeros((len(tokens), 2), np.int64)
    at = 0
    for name, spans in _spans(np.unique(document), texts, tokenizer):
        if len(spans) != corpus.offsets[name + 1] - corpus.offsets[name]:
            raise ValueError(f"text {name} is not the one that was encoded")
        while at < by_document.size and document[by_document[at]] == name:
            occurrence = by_document[at]
            length = len(tokens.sequences[number[occurrence]])
            inside = positions[occurrence, :length] - corpus.offsets[name]
            verdict = is_capitalised(texts[name], [spans[i] for i in inside])
            if verdict is not None:
                verdicts[number[occurrence], int(verdict)] += 1
            at += 1
    return [yes / (yes + no) if yes + no else None for no, yes in verdicts.tolist()]


def _spans(
    documents: Int64, texts: Sequence[str], tokenizer: Any
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Return of each document where its tokens lie in its text."""
    for start in range(0, documents.size, _TEXTS_AT_ONCE):
        names = documents[start : start + _TEXTS_AT_ONCE].tolist()
        encoded = tokenizer.backend_tokenizer.encode_batch(
            [texts[name] for name in names], add_special_tokens=False
        )
        yield from ((name, one.offsets) for name, one in zip(names, encoded, strict=True))
