"""The documentation's own build steps; the build itself, warnings as errors, is `make docs`."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_become_mathml(hooks: Any) -> None:
    page = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p>'
    found = hooks.on_page_content(page)
    assert "<math" in found
    assert "arithmatex" not in found
    assert "<mo>&#x0003C;</mo>" in found or "<mo>&lt;</mo>" in found


def formulas(text: str) -> list[str]:
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"\$\$(.+?)\$\$", outside, re.S) + re.findall(
        r"(?<![$\w`])\$([^$\n`]+)\$(?![$\w`])", re.sub(r"\$\$.+?\$\$", "", outside, flags=re.S)
    )


def test_no_command_of_a_formula_is_left_as_text(hooks: Any) -> None:
    found = [(page.name, tex) for page in PAGES for tex in formulas(page.read_text())]
    assert len(found) > 30
    for name, tex in found:
        drawn = hooks.convert(tex)
        assert "\\" not in re.sub(r"<[^>]*>", "", drawn), f"{name}: {tex}"


@pytest.mark.parametrize(
    "page",
    [
        '<script async src="https://example.org/x.js"></script>',
        '<img alt="x" src="//example.org/x.png">',
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(hooks: Any, page: str) -> None:
    with pytest.raises(PluginError):
        hooks.on_post_page(page)


def test_a_page_may_link_to_elsewhere(hooks: Any) -> None:
    page = '<a href="https://example.org">x</a><script src="assets/x.js"></script>'
    assert hooks.on_post_page(page) == page


def test_flags_of_every_job_are_in_the_reference(hooks: Any) -> None:
    source = (ROOT / "docs" / "reference" / "flags.md").read_text()
    found = hooks.on_page_markdown(source)
    assert "<!--" not in found
    for job in (ROOT / "jobs").glob("*.py"):
        assert f"usage: python jobs/{job.name}" in found


def test_links_of_a_file_at_the_top_level_lead_to_pages(
    hooks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "_ROOT", tmp_path)
    (tmp_path / "X.md").write_text(
        "[a](docs/CLUSTER.md#sizes), [b](https://example.org), [c](cluster/aws.yaml), [d](#d)"
    )
    found = hooks.on_page_markdown("<!-- file X.md -->")
    assert found == "[a](CLUSTER.md#sizes), [b](https://example.org), c, [d](#d)"


def test_snippets_and_strictness_are_on() -> None:
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text())
    settings = yaml.safe_load(text)
    assert settings["strict"] is True
    assert settings["theme"]["font"] is False
    snippets = next(
        each["pymdownx.snippets"]
        for each in settings["markdown_extensions"]
        if isinstance(each, dict) and "pymdownx.snippets" in each
    )
    assert snippets["check_paths"] is True
