"""The sections of docs/BENCHMARKS.md: one a benchmark, replaced when it runs again."""

import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "BENCHMARKS.md"
_HEAD = "# Benchmarks\n\nEach section is written by the command that it names.\n"


def replaced(document: str, name: str, body: str) -> str:
    """Return the document with the section between its markers replaced, or added at the end."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    before, found, rest = document.partition(begin)
    if not found:
        return f"{(document or _HEAD).rstrip()}\n\n{section}\n"
    _, closed, after = rest.partition(end)
    if not closed:
        raise ValueError(f"the document has {begin} but no {end}")
    return before + section + after


def write(name: str, body: str, document: Path = DOCUMENT) -> None:
    """Replace a section of docs/BENCHMARKS.md, or of another document."""
    old = document.read_text(encoding="utf-8") if document.exists() else ""
    document.write_text(replaced(old, name, body), encoding="utf-8")
    print(f"written to {document}")


def provenance(*packages: str) -> str:
    """Return the command, the date and the machine, as the paragraphs that open a section.

    Absolute paths are cut down to their names: where a file lay says nothing elsewhere.
    """
    arguments = (Path(part).name if part.startswith("/") else part for part in sys.argv[1:])
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"`{command}`\n\n{datetime.date.today().isoformat()}; {_processor()}, {os.cpu_count()} "
        f"cores, {memory:.0f} GiB; {platform.system()}, Python {platform.python_version()}, "
        f"{versions}."
    )


def _processor() -> str:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
    family = ", ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({family})" if family else name
