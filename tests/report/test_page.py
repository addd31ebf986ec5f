"""The report as one page: self-contained, escaped, and with the Markdown's content."""

import base64
import dataclasses
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.records import RunRecord
from adapt_ray.report.beside import Remedy, beside
from adapt_ray.report.document import FILE, PAGE, Context, TokenRow, write_report
from adapt_ray.report.page import as_page
from adapt_ray.report.tables import Table, markdown

if TYPE_CHECKING:
    from tests.report.conftest import Made

VOID = {"meta", "img", "br", "hr"}
CANARY = "<script>alert(1)</script>"
ATTACKS = [
    '"><img src=x onerror=alert(1)>',
    "![x](http://example.invalid/x.png)",
    "[x](javascript:alert(1))",
    "<http://example.invalid>",
    "| # * _a_ ~~b~~ `c` &lt;i&gt; &#60;",
]


class Page(HTMLParser):
    """A parsed page: its elements in order, the text in cells and in all, and what is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.outside: list[str] = []  # tables that do not stand in a box that scrolls
        self.boxes: list[str | None] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag == "table" and "scroll" not in (self.boxes[-1] or ""):
            self.outside.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "h2":
            self.headings.append("")
        if tag not in VOID:
            self.open.append(tag)
            self.boxes.append(values.get("class"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.boxes.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data
        if "h2" in self.open:
            self.headings[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.elements if name == tag]


def check_alone(page: Page, folder: Path | None = None) -> None:
    """Check that a page asks for nothing and runs nothing; ``folder`` may hold what it links to."""
    assert page.open == []
    active = {"script", "iframe", "object", "embed", "link", "base", "form", "svg", "video"}
    assert not active & {tag for tag, _ in page.elements}
    for tag, values in page.elements:
        assert not [name for name in values if name.startswith("on")], tag
        if "src" in values:
            assert (values["src"] or "").startswith("data:image/")
        if tag == "img":
            assert (values["alt"] or "").strip()
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        target = link["href"] or ""
        if target.startswith("#"):
            assert target[1:] in ids
        else:
            assert folder is not None
            assert (folder / target).is_file()
    assert page.outside == []


def written(folder: Path, made: "type[Made]", runs: list[RunRecord], **context: Any) -> Page:
    write_report(folder, made.table_of(runs), {}, Context(**context))
    page = Page((folder / PAGE).read_text(encoding="utf-8"))
    check_alone(page, folder)
    return page


def test_the_page_holds_what_the_markdown_holds(made: "type[Made]", tmp_path: Path) -> None:
    runs = made.final_runs({"adapt": 0.8, "full": 0.79}, seeds=3) + made.search_runs(2)
    page = written(tmp_path, made, runs, task="demo", command="python jobs/sweep.py 'a b'")
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "| --:" not in line]
    cells = [cell.strip().replace("\\", "") for row in rows for cell in row[1:-1].split(" | ")]
    assert [re.sub("&lt;", "<", cell) for cell in cells] == page.cells
    figures = re.findall(r"!\[([^]]*)\]\(", text)
    assert [image["alt"] for image in page.all("img")] == figures
    headings = [heading.replace("\\", "") for heading in re.findall(r"^## (.*)$", text, re.M)]
    assert page.headings == headings
    assert "python jobs/sweep.py 'a b'" in page.text
    for sentence in re.findall(r"^- ([^*_<>\\&\n]*)$", text, re.M):
        assert sentence in page.text


def test_it_opens_with_the_answer_and_then_says_what_else_there_is(
    made: "type[Made]", tmp_path: Path
) -> None:
    page = written(tmp_path, made, made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=2))
    assert page.headings[0] == "Answer"
    places = {tag: number for number, (tag, _) in reversed(list(enumerate(page.elements)))}
    assert places["h1"] < places["section"] < places["h2"] < places["nav"] < places["table"]
    links = [link["href"] for link in page.all("a")]
    assert links == [f"#{heading['id']}" for heading in page.all("h2")]
    (title,) = (number for number, (tag, _) in enumerate(page.elements) if tag == "title")
    assert title < places["h1"]


def test_figures_are_drawings_that_need_nothing(made: "type[Made]", tmp_path: Path) -> None:
    page = written(tmp_path, made, made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=2))
    images = page.all("img")
    assert len(images) == len(list(tmp_path.glob("*.png")))
    for image in images:
        kind, _, data = (image["src"] or "").partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawing = ElementTree.fromstring(base64.b64decode(data))
        links = [
            value
            for element in drawing.iter()
            for name, value in element.attrib.items()
            if name.endswith("href")
        ]
        assert all(link.startswith(("#", "data:image/png")) for link in links)
        points = float(drawing.attrib["width"].removesuffix("pt"))
        assert image["style"] == f"--width:{points * 96 / 72:.0f}px"


@pytest.mark.parametrize("attack", [CANARY, " ".join(ATTACKS)])
def test_what_users_write_is_text(made: "type[Made]", tmp_path: Path, attack: str) -> None:
    runs = made.final_runs({attack: 0.8, "full": 0.7}, seeds=2)
    runs += [dataclasses.replace(runs[0], task=attack)]
    runs.append(made.run(attack, 9, status="error", error=f"no: {attack}", test_macro_f1=None))
    search = made.run(attack, 0, phase="search", settings={"method.alpha": attack})
    runs += [search, made.run(attack, 0, phase="search", settings={"method.alpha": "other"})]
    page = written(
        tmp_path,
        made,
        runs,
        title=attack,
        task=attack,
        tokens=[TokenRow(attack, 7, 0.1)],
        command=f"echo {attack}",
        artifacts={attack: attack},
        timings={attack: attack},
    )
    assert page.cells.count(attack) >= 6
    assert f"no: {attack}" in page.cells
    assert f"echo {attack}" in page.text
    assert f"Task: {attack}." in page.text
    assert any(attack in heading for heading in page.headings)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    page = Page(as_page(markdown(Table(("Name", "Value"), ((text, "1"),))), {}, {}))
    line = " ".join(text.split())
    shown = "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in line)
    assert page.cells == ["Name", "Value", shown, "1"]


def test_columns_of_short_cells_are_not_broken_and_long_ones_are_flush_left() -> None:
    table = Table(("A", "B", "C"), (("x", "0.1 to 0.2", "a longer text that may be broken"),))
    page = Page(as_page(markdown(table), {}, {}))
    assert [cell.get("class") for cell in page.all("td")] == ["short", "short", "long"]
    aligned = [cell.get("style") for cell in page.all("th")]
    assert aligned == ["text-align:left", "text-align:right", "text-align:left"]


def test_a_document_without_sections_is_a_page() -> None:
    page = Page(as_page("# Title\n\ntext", {}, {}))
    check_alone(page)
    assert "text" in page.text


def test_a_published_table_is_a_page_that_the_report_links_to(
    made: "type[Made]", tmp_path: Path
) -> None:
    runs = made.final_runs({"full": 0.8}, seeds=2, task="rct")
    found = beside("macro_f1", runs, lambda cell: Remedy("python run.py '<b>'"))
    page = written(tmp_path, made, runs, published=found)
    assert {"href": "published.html"} in page.all("a")
    other = Page((tmp_path / "published.html").read_text(encoding="utf-8"))
    check_alone(other)
    assert other.text.count("python run.py '<b>'") == 150


def test_the_same_records_give_the_same_page(made: "type[Made]", tmp_path: Path) -> None:
    runs = made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=2)
    for name in ("one", "two"):
        written(tmp_path / name, made, runs)
    assert (tmp_path / "one" / PAGE).read_bytes() == (tmp_path / "two" / PAGE).read_bytes()


def test_records_of_nothing_are_a_page(made: "type[Made]", tmp_path: Path) -> None:
    assert "There are no records yet" in written(tmp_path, made, []).text
