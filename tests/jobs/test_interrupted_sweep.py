"""A real sweep, killed at random moments, ends as one that nobody disturbed."""

import random
import sys
import time
from pathlib import Path

import pytest

import interruptions

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLAGS = [
    "--training.epochs=2",
    "--training.precision=fp32",
    "--training.learning_rate=1e-3",
    "--search.configurations=4",
    "--search.seeds=4",
    "--search.final_seeds=2",
    "--contenders={full: {method: {type: full}, space: "
    "{training.learning_rate: {low: 1e-4, high: 1e-2}}}}",
]


def test_a_sweep_killed_at_random_moments_ends_as_an_undisturbed_one(
    small: list[str], tmp_path: Path
) -> None:
    def command(storage: Path) -> list[str]:
        flags = [*small[1:], f"--storage={storage}", *FLAGS]
        return [sys.executable, str(interruptions.ROOT / "jobs" / "sweep.py"), *flags]

    seed = time.time_ns() % 2**32
    rng = random.Random(seed)
    folders = {name: tmp_path / name / "runs" for name in ("undisturbed", "killed")}
    for folder in folders.values():
        folder.parent.mkdir()
    started = time.monotonic()
    quiet = folders["undisturbed"]
    calm = interruptions.disturbed(command(quiet), quiet, [], rng, 0)
    seconds = time.monotonic() - started
    assert calm.problems == []
    assert calm.launches == 1
    found = interruptions.disturbed(
        command(folders["killed"]), folders["killed"], ["worker", "everything"], rng, seconds / 2
    )
    assert found.problems == [], f"seed {seed}"
    assert sum(found.kills.values()) == 2, f"seed {seed}"
    assert interruptions.scores(folders["killed"]) == interruptions.scores(folders["undisturbed"])
