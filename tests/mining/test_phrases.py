"""Kinds of phrases, on examples like those of the paper's case study."""

import csv
from pathlib import Path

import pytest

from adapt_ray.mining.phrases import Kind, is_capitalised, kind_of


@pytest.mark.parametrize(
    ("text", "capitalised", "kind"),
    [
        ("new york city", 0.9, Kind.NAME),
        ("new york city", 0.5, Kind.PHRASE),
        ("bank of america", 1.0, Kind.NAME),
        ("##ova", 0.8, Kind.NAME),
        ("p < 0. 001", 0.0, Kind.NUMBER),
        ("p <", 1.0, Kind.NUMBER),
        ("7 out of 10", None, Kind.NUMBER),
        ("table num", 1.0, Kind.NUMBER),
        ("numb", 0.0, Kind.WORD),
        ("two of the three", None, Kind.NUMBER),
        ("two hours", None, Kind.PHRASE),
        ("* * * *", None, Kind.NUMBER),
        ("$ million", 0.0, Kind.NUMBER),
        ("control group", 0.0, Kind.PHRASE),
        ("in this paper we", 0.2, Kind.PHRASE),
        ("syntactic", 0.0, Kind.WORD),
        ("##ctomy", None, Kind.WORD),
        ("on the other hand", 0.1, Kind.CONNECTIVE),
        ("in order to", None, Kind.CONNECTIVE),
        ("don ' t", None, Kind.CONNECTIVE),
        (", i. e.,", None, Kind.CONNECTIVE),
        ("- lrb - - rrb -", None, Kind.CONNECTIVE),
        ("!!!", None, Kind.CONNECTIVE),
    ],
)
def test_kinds(text: str, capitalised: float | None, kind: Kind) -> None:
    assert kind_of(text, capitalised, masked=False) is kind


def test_signs_for_numbers_count_where_numbers_are_masked_only() -> None:
    assert kind_of("@ mg daily", 0.0, masked=True) is Kind.NUMBER
    assert kind_of("@ somebody", 0.0, masked=False) is Kind.PHRASE
    assert kind_of("##mg", 0.0, masked=True) is Kind.WORD


def test_the_papers_groups(shared: Path) -> None:
    """What the paper calls names, numbers and connectives is found as such."""
    with (shared / "paper" / "case_study.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    groups = {
        "Token Combining for Named Entities": (1.0, Kind.NAME),
        "P-Value Notations": (0.0, Kind.NUMBER),
        "Numeric Ratings": (0.0, Kind.NUMBER),
        "Star Ratings": (0.0, Kind.NUMBER),
        "Reference Markers & Connective Phrases": (0.0, Kind.CONNECTIVE),
        "Hedging Phrases": (0.0, None),
        "Study Groups": (0.0, Kind.PHRASE),
    }
    seen = 0
    for row in rows:
        capitalised, wanted = groups.get(row["group"], (None, None))
        if wanted is not None:
            assert kind_of(row["text"].lower(), capitalised, masked=False) is wanted, row
            seen += 1
    assert seen > 15


def spans(text: str, part: str) -> list[tuple[int, int]]:
    begin = text.index(part)
    return [(begin, begin + len(part))]


@pytest.mark.parametrize(
    ("text", "part", "verdict"),
    [
        ("he met Barack there", "Barack", True),
        ("he met Barack there", "rack", True),  # a piece is judged by its word
        ("he met barack there", "barack", False),
        ("Movies are long", "Movies", None),  # the first word of a text
        ("It ended. Movies are long", "Movies", None),
        ('It ended. "Movies are long', "Movies", None),
        ("It ended, Movies are long", "Movies", True),
        ("It came (Movies too)", "Movies", True),
        ("part Of it", "Of", None),  # a function word
        ("in 1999 then", "1999", None),
        ("so , then", ",", None),
    ],
)
def test_capitals(text: str, part: str, verdict: bool | None) -> None:
    assert is_capitalised(text, spans(text, part)) is verdict


def test_all_words_of_a_sequence_need_a_capital() -> None:
    text = "They know that Barack Obama of the White house left."
    assert is_capitalised(text, [*spans(text, "Barack"), *spans(text, "Obama")]) is True
    assert is_capitalised(text, [*spans(text, "of"), *spans(text, "White")]) is True
    assert is_capitalised(text, [*spans(text, "White"), *spans(text, "house")]) is False
