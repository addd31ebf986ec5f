"""What mkdocs does with pages beside its plugins: formulas, flags, and nothing from elsewhere."""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

from adapt_ray import config

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S
)
_FLAGS = re.compile(r"^<!-- flags of (?P<script>jobs/\w+\.py): (?P<model>\w+) -->$", re.M)
# What a browser fetches by itself; links that a reader follows may lead anywhere.
_LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="(?:https?:)?//[^"]*"')
_STYLE = re.compile(
    r'<link\b[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(?:https?:)?//[^"]*"'
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the ``--help`` text of jobs where a page asks for it."""

    def text(found: re.Match[str]) -> str:
        script, model = found["script"], getattr(config, found["model"])
        return f"```\n{config.describe(model, f'python {script}')}\n```"

    return _FLAGS.sub(text, markdown)


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
