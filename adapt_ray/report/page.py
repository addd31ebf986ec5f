"""A report's Markdown as one HTML page that needs nothing else: no file, no request, no script.

Markdown comes in, never HTML: what looks like a tag is shown as text.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

_SHORT = 24  # characters of the cells of a column that is not broken into lines
_WHOLE = 20  # rows of a table that is printed on one page


def as_page(text: str, drawings: Mapping[str, bytes], links: Mapping[str, str]) -> str:
    """Return a document as a page that opens with its first section, the contents after it.

    ``drawings`` holds the SVG of every figure by the file name that the Markdown gives it;
    ``links`` says where links to other files of the report go instead.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open":
                target = str(child.attrGet("href"))
                child.attrSet("href", links.get(target, target))
            elif child.type == "image":
                _embed(child, drawings[str(child.attrGet("src"))])
    _mark_figures(tokens)
    _set_columns(tokens)
    body = parser.renderer.render(_framed(tokens), parser.options, {})
    return _PAGE.format(title=html.escape(_title(tokens)), style=_STYLE, body=body)


def _embed(image: Token, svg: bytes) -> None:
    """Put a drawing into its image, with its natural width for the style sheet."""
    found = re.search(rb'<svg[^>]* width="([\d.]+)pt"', svg)
    points = float(found[1]) if found else 500.0
    image.attrSet("src", f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")
    image.attrSet("style", f"--width:{points * 96 / 72:.0f}px")


def _mark_figures(tokens: Sequence[Token]) -> None:
    """Make a figure of every paragraph that holds an image and nothing else."""
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        children = inline.children or []
        if before.type == "paragraph_open" and [child.type for child in children] == ["image"]:
            before.tag = after.tag = "figure"
            caption = html.escape(_plain(children[0]))
            children.insert(0, _html(f"<figcaption>{caption}</figcaption>"))


def _set_columns(tokens: Sequence[Token]) -> None:
    """Keep short cells on one line, and set columns of longer text flush left."""
    columns: dict[int, list[tuple[Token, str]]] = {}
    for cell, inline in pairwise(tokens):
        if cell.type == "tr_open":
            number = 0
        elif cell.type in ("th_open", "td_open"):
            columns.setdefault(number, []).append((cell, inline.content))
            number += 1
        if inline.type == "table_close":
            for column in columns.values():
                _set_column(column)
            columns = {}


def _set_column(cells: Sequence[tuple[Token, str]]) -> None:
    if all(len(text) <= _SHORT for _, text in cells[1:]):
        for cell, _ in cells[1:]:
            cell.attrSet("class", "short")
    else:
        for cell, _ in cells:
            cell.attrSet("class", "long")
            cell.attrSet("style", "text-align:left")


def _framed(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with sections to link to, the contents, and tables that scroll."""
    sections = [number for number, token in enumerate(tokens) if _opens_section(token)]
    for number in sections:
        tokens[number].attrSet("id", f"section-{number}")
    found: list[Token] = []
    for number, token in enumerate(tokens):
        if number in sections[:1]:
            found.append(_html('<section class="answer">'))
        if number in sections[1:2]:
            found.append(_html(f"</section>{_contents(tokens, sections)}"))
        if token.type == "table_open":
            found.append(_html(f'<div class="{_box(tokens[number:])}" tabindex="0">'))
        found.append(token)
        if token.type == "table_close":
            found.append(_html("</div>"))
    if len(sections) == 1:
        found.append(_html("</section>"))
    return found


def _box(tokens: Sequence[Token]) -> str:
    """Return the classes of the box of the table that these tokens begin with."""
    types = [token.type for token in tokens]
    rows = types[: types.index("table_close")].count("tr_open")
    return "scroll whole" if rows <= _WHOLE else "scroll"


def _opens_section(token: Token) -> bool:
    return token.type == "heading_open" and token.tag == "h2"


def _contents(tokens: Sequence[Token], sections: Sequence[int]) -> str:
    links = "".join(
        f'<li><a href="#section-{number}">{html.escape(_plain(tokens[number + 1]))}</a></li>'
        for number in sections
    )
    return f"<nav><details open><summary>Contents</summary><ul>{links}</ul></details></nav>\n"


def _html(content: str) -> Token:
    """Return markup of our own; Markdown cannot make such tokens."""
    return Token("html_block", "", 0, content=content)


def _title(tokens: Sequence[Token]) -> str:
    first = (inline for token, inline in pairwise(tokens) if token.tag == "h1")
    return next((_plain(inline) for inline in first), "")


def _plain(inline: Token) -> str:
    """Return a line's text without its markup."""
    children: list[Any] = inline.children or []
    return "".join(child.content for child in children)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><main>
{body}</main></body></html>
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: Canvas; color: CanvasText; font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { margin: 0 0 .5rem; line-height: 1.2; } h2 { margin: 2.5rem 0 .5rem; line-height: 1.25; }
h3 { margin: 1.25rem 0 .25rem; } p, ul { margin: .5rem 0 1rem; } ul { padding-left: 1.2rem; }
li { margin: .25rem 0; }
main > p, main > ul, .answer { max-width: 50rem; }
.answer { padding: .25rem 1.25rem; border-left: .3rem solid var(--accent);
  border-radius: .3rem; background: var(--soft); margin: 1rem 0 1.5rem; }
.answer h2 { margin-top: .75rem; }
.answer h2 + ul > li:first-child, .answer h3 + ul > li:first-child { font-size: 1.2rem; }
nav ul { columns: 15rem; } nav li { break-inside: avoid; margin: 0; padding: .1rem 0; }
nav summary { cursor: pointer; font-weight: 600; }
a { color: LinkText; }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  min-width: 3.5rem; max-width: 26rem; }
th { vertical-align: bottom; overflow-wrap: normal; }
td.short { white-space: nowrap; overflow-wrap: normal; } .long { min-width: 15rem; }
th:first-child, td:first-child { position: sticky; left: 0; max-width: min(18rem, 42vw);
  min-width: min(8rem, 26vw); background: Canvas; white-space: normal; }
figure { margin: 1rem 0 1.5rem; overflow-x: auto; padding: .5rem; border-radius: .3rem;
  background: white; border: 1px solid var(--line); width: fit-content; max-width: 100%; }
figcaption { padding: 0 .25rem .25rem; color: #333; font-size: .875rem; font-weight: 600; }
figure img { display: block; width: var(--width); max-width: 100%; height: auto; }
pre { overflow-x: auto; padding: .75rem; background: var(--soft); border-radius: .3rem; }
@media (max-width: 50rem) {
  figure img { max-width: none; width: calc(.68 * var(--width)); }
}
@media print {
  @page { margin: 14mm; }
  :root { color-scheme: light; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, li, .whole { break-inside: avoid; }
  p { orphans: 3; widows: 3; }
  thead { display: table-header-group; }
  .scroll, figure { overflow: visible; } figure { border: 0; padding: 0; }
  figure img { max-width: min(100%, 150mm); max-height: 210mm; width: auto; }
  table { font-size: 7.5pt; } th, td, .long { padding: .2rem .3rem; min-width: 0; }
  td.short { white-space: normal; } th:first-child, td:first-child { position: static;
    min-width: 0; }
  pre { white-space: pre-wrap; }
}
"""
