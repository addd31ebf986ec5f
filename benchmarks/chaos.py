"""Inject faults into real jobs, one after the other, and say what was promised and what happened.

    python benchmarks/chaos.py                       all of them (over an hour on two cores)
    python benchmarks/chaos.py --only disk,node      those whose name contains one of the words
    python benchmarks/chaos.py --list

Every fault meets real jobs on a tiny model: files are damaged, processes killed, stopped and
starved, nodes lost and cut off. Afterwards the same command is started again, and its end is held
against that of jobs that nobody disturbed: the same runs with the same scores, the same artifacts.
Faults that take root on Linux (mounts, network namespaces) or a tool that is not installed are
listed as not injected. Exit status 1: a promise was broken.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "cluster"))

import chaos_files
import chaos_nodes
import chaos_processes
import section
from chaos_scene import Broken, Fault, NotHere, Scene

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "RELIABILITY.md"
BROKEN = "**broken**"
NOT_INJECTED = "-"
FAULTS: tuple[Fault, ...] = (*chaos_files.FAULTS, *chaos_processes.FAULTS, *chaos_nodes.FAULTS)


def main() -> None:
    """Inject what the options name, print the table, and write it where asked."""
    options = _options()
    words = options.only.split(",") if options.only else [""]
    faults = [fault for fault in FAULTS if any(word in fault.name for word in words)]
    if options.list:
        print("\n".join(fault.name for fault in faults))
        return
    folder = Path(options.folder or tempfile.mkdtemp(prefix="chaos-")).resolve()
    print(f"in {folder}: undisturbed jobs first", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nodes end with this program
    scene = Scene.prepared(folder)
    rows = [_inject(fault, scene, number, len(faults)) for number, fault in enumerate(faults, 1)]
    lines = {row.name: row.line() for row in rows}
    if options.write:
        lines = _written() | lines
        section.write("faults", _table(lines), DOCUMENT)
    else:
        print(_table(lines))
    broken = any(row.lost == BROKEN for row in rows)
    if not broken and not options.folder:
        shutil.rmtree(folder)
    raise SystemExit(1 if broken else 0)


@dataclass(frozen=True)
class Row:
    """What became of one fault."""

    name: str
    promise: str
    happened: str
    lost: str
    seconds: float

    def line(self) -> str:
        """Return the row of the table."""
        happened = " ".join(self.happened.split()).replace("|", "\\|")
        return f"| {self.name} | {self.promise} | {happened} | {self.lost} | {self.seconds:.0f} |"


def _inject(fault: Fault, scene: Scene, number: int, of: int) -> Row:
    started = time.monotonic()
    lost = "nothing"
    try:
        happened = fault.inject(scene)
    except NotHere as reason:
        happened, lost = f"not injected: {reason}", NOT_INJECTED
    except Broken as broken:
        happened, lost = str(broken), BROKEN
    row = Row(fault.name, fault.promise, happened, lost, time.monotonic() - started)
    print(f"[{number}/{of}] {row.name}: {happened} ({row.seconds:.0f} s)", flush=True)
    return row


def _written() -> dict[str, str]:
    """Return the rows that the document has, by fault: a repeated one replaces its own."""
    names = {fault.name for fault in FAULTS}
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    found = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    return {name: line for name, line in found.items() if name in names}


def _table(lines: Mapping[str, str]) -> str:
    ordered = [lines[fault.name] for fault in FAULTS if fault.name in lines]
    skipped = sum(line.split(" | ")[3] == NOT_INJECTED for line in ordered)
    broken = sum(line.split(" | ")[3] == BROKEN for line in ordered)
    minutes = sum(int(line.split(" | ")[4].removesuffix(" |")) for line in ordered) / 60
    head = [
        section.provenance("ray", "torch"),
        "",
        f"{len(ordered) - skipped} faults injected, {broken} promises broken; {minutes:.0f} min in "
        "all. A fault that is injected again (`--only WORD --write`) replaces its row: the command "
        "above is that of the last call.",
        "",
        "| Fault | Promised | What happened | Lost | Seconds |",
        "| :-- | :-- | :-- | :-- | --: |",
    ]
    missing = [fault.name for fault in FAULTS if fault.name not in lines]
    tail = ["", f"Not in the table yet: {'; '.join(missing)}."] if missing else []
    return "\n".join([*head, *ordered, *tail])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", help="words, separated by commas, one of which a fault's name contains")
    add("--list", action="store_true", help="name the faults and inject none")
    add("--folder", help="where jobs write, kept and used again; a temporary one when not given")
    add("--write", action="store_true", help="write the table of docs/RELIABILITY.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
