"""Costs of processes, on processes whose costs are known."""

import sys
from pathlib import Path

from measure import measure

_BUSY = "import time\nwhile time.process_time() < {seconds}: pass"


def test_a_process_is_measured_apart_from_its_caller(tmp_path: Path) -> None:
    held = bytearray(300 * 2**20)
    usage = measure([sys.executable, "-S", "-c", _BUSY.format(seconds=0.2)], tmp_path, 60)
    assert usage.status == 0
    assert not usage.stopped
    assert usage.user_seconds + usage.system_seconds > 0.1
    assert 2**20 < usage.peak_bytes < len(held)
    larger = [sys.executable, "-S", "-c", "print(len(bytearray(200 * 2**20)))"]
    assert measure(larger, tmp_path, 60).peak_bytes > 200 * 2**20
    assert (tmp_path / "log.txt").read_text() == f"{200 * 2**20}\n"


def test_failures_keep_their_status(tmp_path: Path) -> None:
    assert measure([sys.executable, "-S", "-c", "raise SystemExit(3)"], tmp_path, 60).status == 3


def test_a_process_past_its_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    child = _BUSY.format(seconds=1000)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    usage = measure([sys.executable, "-S", "-c", parent], tmp_path, 1.0)
    assert usage.stopped
    assert usage.status == -9
    assert usage.wall_seconds < 30
    assert usage.user_seconds > 0.05, "the child's time counts"
