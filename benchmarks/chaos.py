"""Inject faults into real jobs, one after the other, and say what was promised and what happened.

    python benchmarks/chaos.py                       all of them (about half an hour)
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
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "cluster"))

import chaos_files
import chaos_nodes
import chaos_processes
import section
from chaos_scene import Broken, Fault, NotHere, Scene

ROOT = Path(__file__).resolve().parents[1]
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
    broken = [row for row in rows if row[3] == BROKEN]
    body = _table(rows)
    print(body)
    if options.write:
        section.write("faults", body, ROOT / "docs" / "RELIABILITY.md")
    if not broken and not options.folder:
        shutil.rmtree(folder)
    raise SystemExit(1 if broken else 0)


Row = tuple[str, str, str, str, float]
BROKEN = "**broken**"


def _inject(fault: Fault, scene: Scene, number: int, of: int) -> Row:
    started = time.monotonic()
    lost = "nothing"
    try:
        happened = fault.inject(scene)
    except NotHere as reason:
        happened, lost = f"not injected: {reason}", "-"
    except Broken as broken:
        happened, lost = str(broken), BROKEN
    seconds = time.monotonic() - started
    print(f"[{number}/{of}] {fault.name}: {happened} ({seconds:.0f} s)", flush=True)
    return fault.name, fault.promise, happened, lost, seconds


def _table(rows: Sequence[Row]) -> str:
    injected = [row for row in rows if row[3] != "-"]
    broken = sum(row[3] == BROKEN for row in rows)
    lines = [
        section.provenance("ray", "torch"),
        "",
        f"{len(injected)} faults injected, {broken} promises broken; "
        f"{sum(row[4] for row in rows) / 60:.0f} min in all.",
        "",
        "| Fault | Promised | What happened | Lost | Seconds |",
        "| :-- | :-- | :-- | :-- | --: |",
    ]
    lines += [
        f"| {name} | {promise} | {_cell(happened)} | {lost} | {seconds:.0f} |"
        for name, promise, happened, lost, seconds in rows
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


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
