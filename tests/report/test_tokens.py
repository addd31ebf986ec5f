"""The token report: contents, safety and form."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapt_ray.errors import InputError
from adapt_ray.report.tokens import TokenFacts, TokenReport, as_html, as_markdown, points_to

CLASSES = ("good", "bad & ugly")
TOTALS = (600.0, 400.0)


def token(text: str, kind: str = "phrases of the field", **changes: object) -> TokenFacts:
    values = {
        "support": 40,
        "perplexity": 0.0312,
        "inserted": 36,
        "gapped": 0.25,
        "present": (24.0, 16.0),
    }
    return TokenFacts(text=text, kind=kind, **(values | changes))  # type: ignore[arg-type]


def report(*tokens: TokenFacts) -> TokenReport:
    return TokenReport("reviews", CLASSES, TOTALS, 0.0431, 700, tokens)


FULL = report(
    token("in order to", "connectives"),
    token("worst film", support=30, present=(1.0, 29.0)),
    token("great joy", support=50, present=(50.0, 0.0)),
    token("new york", "names"),
    token("7 out of 10", "numeric references"),
    token("syntactic", "words of the field"),
)


def test_kinds_come_in_order_and_rows_by_support() -> None:
    text = as_markdown(FULL)
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [
        "What they say about the classes",
        "Names (1)",
        "Numeric references (1)",
        "Phrases of the field (2)",
        "Words of the field (1)",
        "Connectives (1)",
        "How to read this",
    ]
    assert text.index("| great joy | 50") < text.index("| worst film | 30")
    assert "6 new tokens" in text
    assert "4.31%" in text
    assert "70% of 1000 distinct texts" in text


def test_a_row_holds_what_is_known_of_a_token() -> None:
    row = "| great joy | 50 | 3.60% | 25% | 0.031 | good 100%, 1.7x |"
    assert row in as_markdown(FULL)
    assert "| new york | 40 | 3.60% | 25% | 0.031 | - |" in as_markdown(FULL)
    cells = re.search(r"<tr><td><code>great joy</code></td>(.*?)</tr>", as_html(FULL))
    assert cells is not None
    assert re.findall(r"<td>(.*?)</td>", cells[1]) == [
        "50", "3.60%", "25%", "0.031", "good 100%, 1.7x"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("present", "named"),
    [
        ((24.0, 16.0), None),  # as in all texts
        ((5.0, 0.0), None),  # five of five by chance: 0.6^5 is 8%
        ((0.0, 40.0), "bad & ugly 100%, 2.5x"),
        ((50.0, 0.0), "good 100%, 1.7x"),
        ((600.0, 0.0), "good 100%, 1.7x"),
        ((600.0, 400.0), None),  # in every text
        ((12.0, 28.0), "bad & ugly 70%, 1.7x"),
    ],
)
def test_a_class_is_named_when_chance_does_not_explain_it(
    present: tuple[float, float], named: str | None
) -> None:
    assert points_to(token("x", present=present), CLASSES, TOTALS) == named


def test_with_one_class_nothing_points_anywhere() -> None:
    one = TokenReport("x", ("only",), (9.0,), 0.1, 9, (token("a b", present=(9.0,)),))
    assert points_to(one.tokens[0], one.classes, one.totals) is None
    assert "| only | 100% | 0 | - |" in as_markdown(one)


def test_the_overview_names_the_clearest_first() -> None:
    clear = [token(f"w{n}", support=n, present=(float(n), 0.0)) for n in (30, 60, 45)]
    assert "| good | 60% | 3 | w60; w45; w30 |" in as_markdown(report(*clear))


def test_no_tokens_is_said() -> None:
    for text in (as_markdown(report()), as_html(report())):
        assert "No task tokens: nothing in 1000 distinct training texts qualifies." in text
        assert "<table" not in text
        assert "|" not in text.split("</style>")[-1]


NASTY = '<script>alert("x")</script> | `a` [b](c) ]] &amp; *'


class Page(HTMLParser):
    """Collects tags and text of a page, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_safe_and_stands_alone() -> None:
    nasty = TokenReport(NASTY, (NASTY, "b"), TOTALS, 0.1, 5, (token(NASTY, present=(80.0, 0.0)),))
    page = Page()
    page.feed(as_html(nasty))
    assert not page.open
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "base"}
    for tag, attributes in page.tags:
        assert not attributes.keys() & {"src", "onclick", "onload"}
        if tag == "a":
            assert (attributes["href"] or "").startswith("#")
    assert "url(" not in as_html(nasty)
    assert page.text.count(NASTY) >= 3  # in a title, as a class and as a token, as it was given


def test_markdown_cells_hold_any_text() -> None:
    lines = [line for line in as_markdown(report(token(NASTY))).splitlines() if "alert" in line]
    assert len(lines) == 1
    assert len(re.findall(r"(?<!\\)\|", lines[0])) == 7
    assert "<script>" not in lines[0]


def test_long_groups_are_folded_but_whole() -> None:
    many = report(*(token(f"word{n} x", support=500 - n) for n in range(100)))
    page = as_html(many)
    head, folded = page.split("<details>")
    assert head.count(" x</code>") == 40
    assert folded.count(" x</code>") == 60
    assert "60 more, less frequent" in page


def test_anchors_of_the_navigation_exist() -> None:
    page = as_html(FULL)
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) == 5
    assert set(links) <= set(re.findall(r'id="([^"]+)"', page))


def test_saving_repeats_and_reads_back(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        FULL.save(folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == ["token_report.json", "tokens.html", "tokens.md"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert TokenReport.load(folders[0]) == FULL


@pytest.mark.parametrize("content", ["{", "[]", '{"corpus": "x"}'])
def test_unreadable_data_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "token_report.json").write_text(content)
    with pytest.raises(InputError, match=r"token_report\.json"):
        TokenReport.load(tmp_path)
