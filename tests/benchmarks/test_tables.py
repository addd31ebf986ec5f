"""The pure parts of the mining benchmark: comparing results, reading them, writing sections."""

from pathlib import Path

import pytest

from miners import read_patterns, write_patterns
from mining import Difference, difference
from section import provenance, replaced


def test_differences_are_counted() -> None:
    ours = {(1,): 5, (1, 2): 4, (3,): 2}
    assert difference(ours, ours.items()) == Difference(0, 0, 0)
    theirs = [((1,), 5), ((1, 2), 3), ((7,), 9), ((1,), 5)]
    assert difference(ours, theirs) == Difference(missing=1, extra=2, wrong_support=1)
    assert ours == {(1,): 5, (1, 2): 4, (3,): 2}, "the expected patterns are left as they are"


def test_patterns_in_the_format_of_spmf(tmp_path: Path) -> None:
    write_patterns(tmp_path, [((5, 9), 3), ((7,), 12)])
    assert (tmp_path / "patterns.txt").read_text() == "5 -1 9 -1 #SUP: 3\n7 -1 #SUP: 12\n"
    assert list(read_patterns(tmp_path)) == [((5, 9), 3), ((7,), 12)]


def test_sections_are_added_and_replaced() -> None:
    one = replaced("", "mining", "first")
    two = replaced(one, "scale", "second")
    assert "<!-- mining:begin -->\nfirst\n<!-- mining:end -->" in two
    again = replaced(two, "mining", "third\n")
    assert again == two.replace("first", "third")
    assert replaced(again, "mining", "third") == again


def test_a_section_without_an_end_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="mining:end"):
        replaced("<!-- mining:begin -->\nlost", "mining", "new")


def test_the_command_is_told_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["/somewhere/benchmarks/mining.py", "--data", "/home/me/data", "--limit", "5"]
    monkeypatch.setattr("sys.argv", given)
    command, machine = provenance("numpy").split("\n\n")
    assert command == "`python benchmarks/mining.py --data data --limit 5`"
    assert "numpy 2." in machine
