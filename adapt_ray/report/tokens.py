"""The token report: what was mined, token by token, as Markdown and as one HTML page.

A pure function of data, so that the same tokens give the same bytes. The page needs nothing from
elsewhere, and every text that comes from users or corpora is escaped.
"""

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from adapt_ray.errors import InputError
from adapt_ray.report.tables import Table, markdown
from adapt_ray.report.wording import MISSING, escape, share

MARKDOWN = "tokens.md"
HTML = "tokens.html"
VERSION = 2  # of facts and wording: reports of an earlier one are written again
_DATA = "token_report.json"

# Twice the log-likelihood ratio of "as often as in all texts" above which a class is named: chance
# gives it to one token in a thousand that say nothing about a class.
_EVIDENCE = 10.83
_LEADERS = 10  # tokens that the overview names for each class
_SHOWN = 40  # rows of a table of the page before the rest is folded away

_ABOUT = {
    "names": "More than half of the occurrences have a capital on every word (function words and "
    "words that begin a sentence aside).",
    "numeric references": "With a digit, a sign that stands with numbers or for them, or a number "
    "word alone among function words.",
    "phrases of the field": "Several words, at least one of them neither a function word nor a "
    "word that links.",
    "words of the field": "Single words, or parts of one, that the base vocabulary splits.",
    "connectives": "Function words and punctuation, with words that link phrases (in order to).",
}


@dataclass(frozen=True)
class TokenFacts:
    """A task token. Counts are of distinct training texts."""

    text: str
    kind: str
    support: int  # texts with an occurrence
    perplexity: float  # unigram-normalised
    inserted: int  # texts in which it is inserted: another token may win at the same place
    gapped: float  # share of looked-at occurrences with a foreign token between its own
    present: tuple[float, ...]  # [n_classes], texts with an occurrence, by class


@dataclass(frozen=True)
class TokenReport:
    """The task tokens of a corpus and what they are measured against."""

    corpus: str
    classes: tuple[str, ...]
    totals: tuple[float, ...]  # [n_classes], distinct training texts by class
    inserted_share: float  # inserted tokens per token of the training texts
    covered: int  # texts in which any token is inserted
    tokens: tuple[TokenFacts, ...]

    @property
    def texts(self) -> int:
        """Number of distinct training texts."""
        return round(sum(self.totals))

    def save(self, folder: Path) -> None:
        """Write the report into a folder in both forms, and its data."""
        write_token_report(folder, self)
        (folder / _DATA).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the data that :meth:`save` wrote; raises InputError for anything else."""
        try:
            values = json.loads((folder / _DATA).read_text(encoding="utf-8"))
            tokens = tuple(
                TokenFacts(**token | {"present": tuple(token["present"])})
                for token in values["tokens"]
            )
            lists = {name: tuple(values[name]) for name in ("classes", "totals")}
            return cls(**values | lists | {"tokens": tokens})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"token report {str(folder / _DATA)!r}: {error}") from None


def write_token_report(folder: Path, report: TokenReport) -> None:
    """Write ``tokens.md`` and ``tokens.html`` into a folder."""
    (folder / MARKDOWN).write_text(as_markdown(report), encoding="utf-8")
    (folder / HTML).write_text(as_html(report), encoding="utf-8")


def as_markdown(report: TokenReport) -> str:
    """Return the report in GitHub's Markdown."""
    blocks = [f"# {escape(_title(report))}", escape(_opening(report))]
    if report.tokens:
        blocks += ["## What they say about the classes", escape(_CLASSES)]
        blocks.append(markdown(Table(_OVERVIEW_COLUMNS, tuple(_overview(report)))))
    for kind, tokens in _groups(report).items():
        blocks += [f"## {kind.capitalize()} ({len(tokens)})", escape(_ABOUT.get(kind, ""))]
        rows = tuple(_row(token, report) for token in tokens)
        blocks.append(markdown(Table(_COLUMNS, rows)))
    if report.tokens:
        blocks += ["## How to read this", "\n".join(f"- {escape(line)}" for line in _READING)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def as_html(report: TokenReport) -> str:
    """Return the report as one page, with neither scripts nor anything from elsewhere."""
    groups = _groups(report)
    body = [f"<h1>{_e(_title(report))}</h1>", f"<p class=lead>{_e(_opening(report))}</p>"]
    if report.tokens:
        links = (
            f'<a href="#{_anchor(kind)}">{_e(kind.capitalize())} <b>{len(tokens)}</b></a>'
            for kind, tokens in groups.items()
        )
        body.append(f"<nav>{' '.join(links)}</nav>")
        body += ["<h2>What they say about the classes</h2>", f"<p>{_e(_CLASSES)}</p>"]
        body.append(_overview_html(report))
    for kind, tokens in groups.items():
        body.append(f'<h2 id="{_anchor(kind)}">{_e(kind.capitalize())} ({len(tokens)})</h2>')
        body.append(f"<p>{_e(_ABOUT.get(kind, ''))}</p>")
        body.append(_table_html(tokens[:_SHOWN], report))
        if len(tokens) > _SHOWN:
            rest = _table_html(tokens[_SHOWN:], report)
            more = f"{len(tokens) - _SHOWN} more, less frequent"
            body.append(f"<details><summary>{more}</summary>{rest}</details>")
    if report.tokens:
        lines = "".join(f"<li>{_e(line)}</li>" for line in _READING)
        body.append(f"<h2>How to read this</h2><ul>{lines}</ul>")
    head = (
        '<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_e(_title(report))}</title><style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{content}\n</main>'
        "</body></html>\n"
    )


_COLUMNS = ("Token", "Support", "Coverage", "With gaps", "PPLu", "Points to")
_OVERVIEW_COLUMNS = ("Class", "Share of texts", "Tokens that point to it", "The clearest")

_CLASSES = (
    "A token points to a class that the texts with it have more often than all training texts, by "
    "more than chance would give to one token in a thousand. The clearest come first."
)

_READING = (
    "A task token stands before each occurrence of its sequence. All counts are of distinct "
    "training texts; a text that stands there with several classes is shared out among them.",
    "Support: texts with an occurrence.",
    "Coverage: share of texts in which the token is inserted. Where two start at one place the "
    "longer one is, so that coverage can lie below support.",
    "With gaps: share of occurrences with another token inside, judged by up to 50 texts.",
    "PPLu: unigram-normalised perplexity. The lower, the more the parts belong together; 1 is what "
    "independent tokens would give.",
    "Points to: the class, its share of the texts with the token, and how many times its share of "
    "all texts that is (one text of average classes added, so that rare tokens do not exaggerate).",
    "Parts of words that the base tokenizer cuts are shown as it writes them (##).",
)


def _title(report: TokenReport) -> str:
    return f"Task tokens of {report.corpus}"


def _opening(report: TokenReport) -> str:
    if not report.tokens:
        return f"No task tokens: nothing in {report.texts} distinct training texts qualifies."
    count = len(report.tokens)
    reach = share(report.covered / report.texts)
    return (
        f"{count} new {'token' if count == 1 else 'tokens'}. Inserted into the training texts they "
        f"add {share(report.inserted_share)} to their length and reach {reach} of {report.texts} "
        "distinct texts."
    )


def _groups(report: TokenReport) -> dict[str, list[TokenFacts]]:
    """Return the tokens by kind, most frequent first, kinds in the order of their descriptions."""
    kinds = [*_ABOUT, *sorted({token.kind for token in report.tokens} - _ABOUT.keys())]
    ordered = sorted(report.tokens, key=lambda t: (-t.support, t.perplexity, t.text))
    found = {kind: [token for token in ordered if token.kind == kind] for kind in kinds}
    return {kind: tokens for kind, tokens in found.items() if tokens}


def _row(token: TokenFacts, report: TokenReport) -> tuple[str, ...]:
    return (
        token.text,
        str(token.support),
        f"{token.inserted / report.texts:.2%}",
        f"{token.gapped:.0%}",
        f"{token.perplexity:.2g}",
        points_to(token, report.classes, report.totals) or MISSING,
    )


def points_to(token: TokenFacts, classes: Sequence[str], totals: Sequence[float]) -> str | None:
    """Return the class that a token is most informative of, with its shares; None for chance."""
    clear = _evidence(token, totals)
    if not clear:
        return None
    best = max(clear, key=lambda number: (clear[number], -number))
    return f"{classes[best]} {share(token.present[best] / sum(token.present))}, " + (
        f"{_lift(token, best, totals):.1f}x"
    )


def _lift(token: TokenFacts, number: int, totals: Sequence[float]) -> float:
    """Return how many times its usual share a class has, one text of average classes added."""
    usual = totals[number] / sum(totals)
    return (token.present[number] + usual) / (sum(token.present) + 1) / usual


def _evidence(token: TokenFacts, totals: Sequence[float]) -> dict[int, float]:
    """Return, for the classes that a token points to, twice the log-likelihood ratio."""
    documents, present = sum(totals), sum(token.present)
    found = {}
    for number, (both, total) in enumerate(zip(token.present, totals, strict=True)):
        expected = present * total / documents
        if both <= expected:
            continue
        cells = (
            (both, expected),
            (present - both, present - expected),
            (total - both, total - expected),
            (documents - present - total + both, documents - present - total + expected),
        )
        ratio = 2 * sum(seen * math.log(seen / usual) for seen, usual in cells if seen > 1e-9)
        if ratio > _EVIDENCE:
            found[number] = ratio
    return found


def _overview(report: TokenReport) -> Iterable[tuple[str, ...]]:
    for name, usual, clear in _leaders(report):
        texts = "; ".join(token.text for token in clear[:_LEADERS])
        yield name, share(usual), str(len(clear)), texts or MISSING


def _leaders(report: TokenReport) -> Iterable[tuple[str, float, list[TokenFacts]]]:
    """Return each class, its share of texts, and the tokens that point to it, clearest first."""
    evidence = [(token, _evidence(token, report.totals)) for token in report.tokens]
    for number, name in enumerate(report.classes):
        clear = [(token, found[number]) for token, found in evidence if number in found]
        clear.sort(key=lambda pair: (-pair[1], pair[0].text))
        yield name, report.totals[number] / sum(report.totals), [token for token, _ in clear]


def _e(text: str) -> str:
    return html.escape(" ".join(text.split()))


def _anchor(kind: str) -> str:
    return html.escape(kind.replace(" ", "-"))


def _cells(tag: str, values: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{value}</{tag}>' for value in values)}</tr>"


def _table_html(tokens: Sequence[TokenFacts], report: TokenReport) -> str:
    rows = []
    for token in tokens:
        text, *rest = _row(token, report)
        rows.append(_cells("td", [f"<code>{_e(text)}</code>", *map(_e, rest)]))
    return f"<table>{_cells('th', map(_e, _COLUMNS))}{''.join(rows)}</table>"


def _overview_html(report: TokenReport) -> str:
    rows = []
    for name, usual, clear in _leaders(report):
        texts = " ".join(f"<code>{_e(token.text)}</code>" for token in clear[:_LEADERS])
        rows.append(_cells("td", [_e(name), share(usual), str(len(clear)), texts or MISSING]))
    head = _cells("th", map(_e, _OVERVIEW_COLUMNS))
    return f"<table class=overview>{head}{''.join(rows)}</table>"


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { margin: 0 0 .5rem; } h2 { margin: 2.5rem 0 .25rem; } p { margin: .25rem 0 1rem; }
.lead { font-size: 1.15rem; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
nav a { padding: .15rem .7rem; border: 1px solid var(--line); border-radius: 1rem;
  color: inherit; text-decoration: none; }
table { width: 100%; border-collapse: collapse; table-layout: fixed;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; overflow-wrap: anywhere; }
th { font-size: .85rem; font-weight: 600; }
th:first-child, td:first-child { width: 30%; text-align: left; }
th:last-child, td:last-child { width: 26%; text-align: left; padding-left: 1rem; }
.overview th:first-child { width: 18%; } .overview th:last-child { width: 58%; }
tr:hover td { background: var(--soft); }
code { padding: .05rem .35rem; border-radius: .3rem; background: var(--soft);
  font: .95em ui-monospace, monospace; }
.overview code { display: inline-block; margin: 0 .2rem .2rem 0; }
summary { padding: .5rem; cursor: pointer; }
"""
