"""Scores against direct computation, and the choice of tokens against a recount."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapt_ray.config import MiningConfig, TokensConfig
from adapt_ray.errors import InputError
from adapt_ray.mining.classes import classes_with, mutual_information
from adapt_ray.mining.closed import mine_patterns
from adapt_ray.mining.encoded import EncodedCorpus
from adapt_ray.mining.patterns import Patterns
from adapt_ray.mining.scoring import Selected, TokenSet, perplexity, select_tokens
from adapt_ray.tokenization.matcher import Matcher

Documents = list[list[int]]


def mined(documents: Documents, limits: MiningConfig) -> tuple[EncodedCorpus, Patterns]:
    corpus = EncodedCorpus.from_documents(documents)
    return corpus, mine_patterns(corpus, limits)


def test_raw_perplexity_is_the_formula() -> None:
    """15 tokens, four of them 1 and four 2; with a gap of one the last document counts too."""
    documents = [[1, 2, 3, 4], [1, 2, 4, 3], [5, 1, 2], [1, 3, 2, 5]]
    for max_gap, starts in [(0, 3), (1, 4)]:
        corpus, patterns = mined(documents, MiningConfig(min_support=3, max_gap=max_gap))
        assert patterns.as_mapping() == {(1, 2): starts}
        wanted = ((starts / 15) / (4 / 15 * 4 / 15)) ** (-1 / 2)
        assert perplexity(patterns, corpus, "raw", max_gap) == pytest.approx([wanted])


@pytest.mark.parametrize(
    ("length", "max_gap", "max_span", "ways"),
    [
        (1, 3, None, 1),
        (2, 1, None, 2),
        (4, 2, None, 27),
        (2, 0, 5, 1),
        (3, None, 4, 3),  # two of the three places after the first
        (3, 1, 4, 3),  # gaps 0+0, 0+1, 1+0; 1+1 is wider than 4
        (3, 1, 5, 4),
    ],
)
def test_gap_correction_counts_the_ways_to_lie(
    length: int, max_gap: int | None, max_span: int | None, ways: int
) -> None:
    items = np.arange(length, dtype=np.int32)
    corpus = EncodedCorpus.from_documents([items] * 2 + [[9] * 5])
    patterns = Patterns(items, np.array([0, length]), np.array([2]), np.array([2]))
    raw = perplexity(patterns, corpus, "raw", max_gap, max_span)
    corrected = perplexity(patterns, corpus, "gap_corrected", max_gap, max_span)
    assert corrected[0] / raw[0] == pytest.approx(ways ** (1 / length))


def test_gap_correction_needs_a_limit() -> None:
    corpus, patterns = mined([[1, 2, 3]] * 3, MiningConfig(max_gap=None, min_support=3))
    with pytest.raises(InputError, match="take score 'raw'"):
        perplexity(patterns, corpus, "gap_corrected", None)
    assert len(perplexity(patterns, corpus, "raw", None)) == len(patterns)


def recount(
    documents: Documents,
    config: TokensConfig,
    vocabulary: int,
    limits: MiningConfig,
    occurrences: Callable[..., Any],
    labels: list[int] | None = None,
) -> list[tuple[int, ...]]:
    """Choose tokens by the definitions, with exhaustive occurrences."""
    size = sum(map(len, documents))
    counts = np.bincount([t for d in documents for t in d])
    _, patterns = mined(documents, limits)
    nearest: dict[tuple[int, ...], dict[tuple[int, int], tuple[int, ...]]] = {}
    for items, found in occurrences(documents, limits.max_gap, limits.max_span).items():
        places: dict[tuple[int, int], tuple[int, ...]] = {}
        for d, rows in found.items():
            for q in rows:
                places[d, q[0]] = min(places.get((d, q[0]), q), q)
        nearest[items] = places
    ranked = []
    for items, support in patterns.as_mapping().items():
        score = len(nearest[items]) / size
        if config.score == "gap_corrected":
            score /= ((limits.max_gap or 0) + 1) ** (len(items) - 1)
        score = (score / math.prod(counts[t] / size for t in items)) ** (-1 / len(items))
        if support >= config.min_support and score < 1 - 1e-9:
            ranked.append((round(score, 9), -support, -len(items), items))
    if config.label_weight:
        assert labels is not None
        told = [information([{d for d, _ in nearest[row[-1]]}, labels]) for row in ranked]
        weight = config.label_weight
        mixed = []
        for row, one in zip(ranked, told, strict=True):
            lower = sum(other[0] < row[0] for other in ranked)
            more = sum(other > one for other in told)
            mixed.append(((1 - weight) * lower + weight * more, *row[1:]))
        ranked = mixed
    ranked.sort()
    chosen: list[tuple[int, ...]] = []
    inserted: set[tuple[int, int]] = set()
    covered: set[tuple[int, int]] = set()
    for *_, items in ranked:
        if len(chosen) == math.floor(config.vocabulary_share * vocabulary):
            break
        cells = {start: {(start[0], i) for i in q} for start, q in nearest[items].items()}
        apart = {start[0] for start, cell in cells.items() if not cell & covered}
        if len(apart) < config.min_support and not config.allow_overlap:
            continue
        if len(inserted | set(cells)) > config.insertion_budget * size:
            break
        inserted |= set(cells)
        covered = covered.union(*cells.values())
        chosen.append(items)
    return chosen


def information(facts: list[Any]) -> float:
    """Return the mutual information of membership in a set and label, from the joint table."""
    present, labels = facts
    n = len(labels)
    joint = Counter((d in present, label) for d, label in enumerate(labels))
    x, y = Counter(d in present for d in range(n)), Counter(labels)
    return round(sum(c / n * math.log(c * n / x[a] / y[b]) for (a, b), c in joint.items()), 9)


@settings(max_examples=300, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=8),
    score=st.sampled_from(["raw", "gap_corrected"]),
    min_support=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    budget=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    max_gap=st.integers(0, 2),
    allow_overlap=st.booleans(),
)
def test_both_budgets_hold_and_nothing_more_fits(
    occurrences_by_definition: Callable[..., Any],
    documents: Documents,
    score: Literal["raw", "gap_corrected"],
    min_support: int,
    share: float,
    budget: float,
    max_gap: int,
    allow_overlap: bool,
) -> None:
    limits = MiningConfig(min_support=2, max_gap=max_gap)
    config = TokensConfig(
        score=score,
        min_support=min_support,
        vocabulary_share=share,
        insertion_budget=budget,
        allow_overlap=allow_overlap,
    )
    corpus, patterns = mined(documents, limits)
    selected = select_tokens(patterns, corpus, config, 12, limits)
    wanted = recount(documents, config, 12, limits, occurrences_by_definition)
    # Scores that are equal on paper may differ in the last digit, and swap places then.
    if len(set(np.round(perplexity(patterns, corpus, score, max_gap), 9))) == len(patterns):
        assert set(selected.tokens.sequences) == set(wanted)
    assert len(selected.tokens) <= share * 12
    assert selected.inserted_share <= budget
    support = patterns.as_mapping()
    chosen = selected.tokens.sequences
    assert selected.support.tolist() == [support[sequence] for sequence in chosen]
    precedence = [(-len(s), -support[s], s) for s in chosen]
    assert precedence == sorted(precedence)
    matcher = Matcher(chosen, np.arange(len(chosen)), max_gap, None)
    inserted = (matcher.best(corpus.tokens, corpus.offsets) >= 0).sum()
    assert selected.inserted_share == pytest.approx(inserted / max(corpus.tokens.size, 1))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(0, 4), max_size=7), st.integers(0, 2)),
        min_size=2,
        max_size=8,
    ),
    weight=st.sampled_from([0.25, 0.5, 1.0]),
    max_gap=st.integers(0, 1),
)
def test_label_weight_mixes_ranks_of_perplexity_and_information(
    occurrences_by_definition: Callable[..., Any],
    rows: list[tuple[list[int], int]],
    weight: float,
    max_gap: int,
) -> None:
    documents, labels = [list(d) for d, _ in rows], [label for _, label in rows]
    limits = MiningConfig(min_support=2, max_gap=max_gap)
    config = TokensConfig(
        score="raw", min_support=2, insertion_budget=0.3, label_weight=weight, allow_overlap=True
    )
    corpus, patterns = mined(documents, limits)
    classes = np.eye(3)[labels]
    selected = select_tokens(patterns, corpus, config, 1000, limits, classes)
    wanted = recount(documents, config, 1000, limits, occurrences_by_definition, labels)
    # Values that are equal on paper may differ in the last digit, and have other ranks then.
    present = classes_with(patterns, corpus, classes, max_gap)
    for values in (
        perplexity(patterns, corpus, "raw", max_gap),
        mutual_information(present, classes.sum(0)),
    ):
        assume(len(set(values)) == len(set(np.round(values, 9))))
    assert set(selected.tokens.sequences) == set(wanted)


def test_labels_are_ignored_unless_asked_for() -> None:
    documents = [[1, 2, 5], [5, 1, 2], [3, 4, 5], [5, 3, 4], [1, 2, 6], [6, 3, 4]]
    limits = MiningConfig(min_support=3, max_gap=0)
    corpus, patterns = mined(documents, limits)
    classes = [np.eye(2)[[0, 0, 1, 1, 0, 1]], np.eye(2)[[0, 1, 0, 1, 0, 1]], None]

    def chosen(weight: float, labels: Any) -> Selected:
        config = TokensConfig(min_support=3, insertion_budget=0.2, label_weight=weight)
        return select_tokens(patterns, corpus, config, 100, limits, labels)

    assert {chosen(0, labels).tokens for labels in classes} == {chosen(0, None).tokens}
    with pytest.raises(ValueError, match="no classes"):
        chosen(0.5, None)


def test_the_informative_one_of_equals_is_chosen() -> None:
    """1 2 and 3 4 are equally frequent and tight; the room is for one, and 3 4 tells the class."""
    documents = [[1, 2, 3, 4], [5, 1, 2], [3, 4, 6], [6, 3, 4], [1, 2, 7], [7, 8]]
    limits = MiningConfig(min_support=3, max_gap=0)
    corpus, patterns = mined(documents, limits)
    told = np.eye(2)[[1, 0, 1, 1, 0, 0]]  # with 3 4
    for weight, first in [(0.0, (1, 2)), (0.5, (3, 4))]:
        config = TokensConfig(min_support=3, insertion_budget=0.2, label_weight=weight)
        selected = select_tokens(patterns, corpus, config, 100, limits, told)
        assert selected.tokens.sequences == (first,)


def test_near_copies_are_passed_over_unless_allowed() -> None:
    """9 stands before most of the 1 2 3; 2 3 has two documents of its own, 3 4 three."""
    documents = [[9, 1, 2, 3]] * 4 + [[1, 2, 3, 5], [6, 2, 3, 7], [8, 2, 3, 3, 4]]
    documents += [[3, 4], [7, 3, 4]]
    documents += [[9]] * 40 + [[i] for i in range(20, 50)]  # 9 is too frequent to belong to 1 2 3
    limits = MiningConfig(min_support=3, max_gap=0)
    corpus, patterns = mined(documents, limits)
    assert {(9, 1, 2, 3), (1, 2, 3), (2, 3), (3, 4)} <= patterns.as_mapping().keys()
    chosen = {}
    for allowed in (True, False):
        config = TokensConfig(
            min_support=3, insertion_budget=1, vocabulary_share=1, allow_overlap=allowed
        )
        selected = select_tokens(patterns, corpus, config, 1000, limits)
        chosen[allowed] = set(selected.tokens.sequences)
    assert {(9, 1, 2, 3), (1, 2, 3), (2, 3), (3, 4)} <= chosen[True]
    assert chosen[False] == chosen[True] - {(9, 1, 2, 3), (2, 3)}


def test_figures_of_the_chosen_tokens() -> None:
    documents = [[7, 8, 1], [2, 7, 8], [3, 7, 8, 4]]
    limits = MiningConfig(min_support=3, max_gap=0)
    config = TokensConfig(min_support=3, insertion_budget=0.5)
    corpus, patterns = mined(documents, limits)
    selected = select_tokens(patterns, corpus, config, 10, limits)
    assert selected.tokens == TokenSet(((7, 8),), 10, 0, None)
    assert selected.support.tolist() == [3]
    assert selected.cut_off == selected.perplexity[0] == pytest.approx(math.sqrt(3 / 10))
    assert selected.inserted_share == pytest.approx(3 / 10)


def test_chance_company_is_no_token() -> None:
    """0 0 occurs twice in 18 tokens, and independent draws would make it (11/18)^2 * 18 times."""
    documents = [[0, 0, 1], [2, 0, 0], [0, 1, 0, 2, 0], [0, 3, 0, 1, 0, 2, 0]]
    limits = MiningConfig(min_support=2, max_gap=0)
    corpus, patterns = mined(documents, limits)
    scores = perplexity(patterns, corpus, "raw", 0)
    config = TokensConfig(
        score="raw", min_support=2, vocabulary_share=1, insertion_budget=1, allow_overlap=True
    )
    selected = select_tokens(patterns, corpus, config, 1000, limits)
    assert (0, 0) in patterns.as_mapping()
    assert len(selected.tokens) == (scores < 1).sum() < len(patterns)
    assert (0, 0) not in selected.tokens.sequences


def empty_selection() -> Selected:
    limits = MiningConfig()
    corpus, patterns = mined([], limits)
    return select_tokens(patterns, corpus, TokensConfig(), 100, limits)


def test_no_patterns_give_an_empty_token_set() -> None:
    selected = empty_selection()
    assert selected.tokens == TokenSet((), 100, 1, None)
    assert selected.cut_off is None
    assert selected.inserted_share == 0


@pytest.mark.parametrize(
    "tokens", [TokenSet(((1, 2), (3, 1, 2)), 10, 1, None), TokenSet((), 0, None, 4)]
)
def test_token_set_survives_saving(tmp_path: Path, tokens: TokenSet) -> None:
    tokens.save(tmp_path)
    first = (tmp_path / "tokens.json").read_bytes()
    loaded = TokenSet.load(tmp_path)
    assert loaded == tokens
    loaded.save(tmp_path)
    assert (tmp_path / "tokens.json").read_bytes() == first


GOOD = {"base_vocabulary": 10, "max_gap": 1, "max_span": None, "sequences": [[1, 2]]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sequences": [[1, 10]]}, "sequence 0 holds 10; ids are 0 to 9"),
        ({"sequences": [[1, True]]}, "sequence 0 holds True"),
        ({"sequences": [[]]}, r"sequence 0 is \[\]"),
        ({"sequences": [[1], [1]]}, "twice"),
        ({"sequences": 3}, "sequences is a int"),
        ({"base_vocabulary": -1}, "base_vocabulary is -1"),
        ({"max_gap": 0.5}, r"max_gap is 0\.5"),
        ({"max_span": 0}, "max_span is 0"),
        ({"more": 1}, "exactly the fields"),
    ],
)
def test_bad_token_files_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    (tmp_path / "tokens.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(InputError, match=named):
        TokenSet.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_unreadable_token_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(InputError, match=r"tokens\.json"):
        TokenSet.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        TokenSet.load(tmp_path / "absent")
