"""What mkdocs does with pages beside its plugins: formulas, flags, and nothing from elsewhere."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

from adapt_ray import config

_ROOT = Path(__file__).resolve().parents[1]
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S
)
_FLAGS = re.compile(r"^<!-- flags of (?P<script>jobs/\w+\.py): (?P<model>\w+) -->$", re.M)
_FILE = re.compile(r"^<!-- file (?P<name>[\w.]+) -->$", re.M)
# A relative link of a file at the top level: into this folder, or to what is no page.
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?!https?:|#)(?P<docs>docs/)?(?P<target>[^)]+)\)")
# What a browser fetches by itself; links that a reader follows may lead anywhere.
_LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="(?:https?:)?//[^"]*"')
_STYLE = re.compile(
    r'<link\b[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(?:https?:)?//[^"]*"'
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the ``--help`` text of jobs, and files of the top level, where a page asks for them."""

    def text(found: re.Match[str]) -> str:
        script, model = found["script"], getattr(config, found["model"])
        return f"```\n{config.describe(model, f'python {script}')}\n```"

    def link(found: re.Match[str]) -> str:
        page = found["docs"] and found["target"].partition("#")[0].endswith(".md")
        return f"[{found['text']}]({found['target']})" if page else found["text"]

    def file(found: re.Match[str]) -> str:
        return _LINK.sub(link, (_ROOT / found["name"]).read_text(encoding="utf-8"))

    return _FILE.sub(file, _FLAGS.sub(text, markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Turn TeX into MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        tex = html.unescape(found["tex"]).strip()
        if found["tag"] == "span":
            return convert(tex)
        return f'<div class="formula">{convert(tex, display="block")}</div>'

    return _FORMULA.sub(drawn, content)


def on_post_page(output: str, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    found = _LOADED.search(output) or _STYLE.search(output)
    if found:
        raise PluginError(f"a page loads from outside: {found[0]}")
    if "arithmatex" in output:
        raise PluginError("a formula was not turned into MathML")
    return output
