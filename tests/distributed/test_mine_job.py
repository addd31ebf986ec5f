"""A mining job that is killed in the middle goes on with what its partitions have finished."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


def command(storage: Path) -> list[str]:
    job = str(ROOT / "jobs" / "mine.py")
    # Unlimited gaps within a span take the demo a few seconds in many partitions.
    options = {"mining.max_gap": "null", "mining.max_span": "12", "resources.mining_tasks": "200"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, job, f"--storage={storage}", *flags]


def finished(storage: Path) -> dict[str, int]:
    """Return the manifests of finished partitions with their times of change."""
    manifests = (storage / "artifacts" / "partitions").glob("*/*/manifest.json")
    return {str(path): path.stat().st_mtime_ns for path in manifests}


def patterns(storage: Path) -> bytes:
    [path] = (storage / "artifacts" / "patterns").glob("*/attempt-*/patterns.parquet")
    return path.read_bytes()


def wait_for_partitions(job: "subprocess.Popen[bytes]", storage: Path, least: int) -> None:
    deadline = time.monotonic() + 120
    while len(finished(storage)) < least:
        assert job.poll() is None, "the job ended before"
        assert time.monotonic() < deadline, "no partition was finished"
        time.sleep(0.02)


def test_a_killed_job_mines_only_what_is_missing(tmp_path: Path) -> None:
    undisturbed = subprocess.run(
        command(tmp_path / "one"), capture_output=True, text=True, check=False
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert not finished(tmp_path / "one"), "partitions are removed when all is published"

    storage = tmp_path / "two"
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command(storage), stdout=log, stderr=log)
    wait_for_partitions(job, storage, 5)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(3)  # what the driver started dies with it
    before = finished(storage)
    assert 5 <= len(before) < 200
    assert not list((storage / "artifacts").glob("patterns/*/manifest.json"))

    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command(storage), stdout=log, stderr=log)
    wait_for_partitions(job, storage, len(before) + 1)
    during = finished(storage)
    assert job.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    told = re.search(r"(\d+) of \d+ partitions are done already", (tmp_path / "log").read_text())
    assert told
    assert int(told[1]) == len(before)
    assert before.items() < during.items(), "a finished partition was mined again"
    assert patterns(storage) == patterns(tmp_path / "one")
    assert not finished(storage)
    table = pq.read_table(next((storage / "artifacts" / "patterns").rglob("patterns.parquet")))
    assert table.num_rows > 100
