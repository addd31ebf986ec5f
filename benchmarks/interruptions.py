"""Kill a sweep again and again, at random moments, and hold its end against an undisturbed one.

Victims are the driver, a worker, the process that leads a worker group, a trial, the desk where
runs are ordered, the raylet, the head's control store, and everything at once. After each kill the
same command goes on. Checked after every kill: no finished record is gone or was written again. In
the end: the same runs as of the undisturbed sweep, none more and none twice, with the same scores.
"""

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

import section

ROOT = Path(__file__).resolve().parents[1]
# What the command line of a victim contains; the rest is said by functions below.
_ROLES = {
    "worker": "RayTrainWorker",
    "group leader": "TrainController",
    "trial": "ray::ImplicitFunc",
    "desk": "ray::Desk",
    "raylet": "raylet/raylet",
    "control store": "gcs_server",
}
VICTIMS = ("driver", *_ROLES, "everything")
_FATAL = {"driver", "desk", "raylet", "control store", "everything"}  # the command must be repeated
_EXIT_SECONDS = 120.0  # that a driver may take to notice that its Ray is gone
_NO_VICTIM_SECONDS = 60.0


@dataclass
class Outcome:
    """What a series of kills did."""

    kills: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    hung: list[str] = field(default_factory=list)  # drivers that did not notice within the time
    problems: list[str] = field(default_factory=list)


def disturbed(
    command: Sequence[str],
    storage: Path,
    victims: Sequence[str],
    rng: random.Random,
    most_seconds: float,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run a sweep until it ends by itself, killing one victim after the other on the way.

    Each dies at most ``most_seconds`` after the sweep was started or the one before it died.
    """
    found = Outcome()
    waiting = list(victims)
    log = storage.parent / "killed.log"
    while True:
        found.launches += 1
        with log.open("a") as output:
            driver = psutil.Popen(command, cwd=storage.parent, stdout=output, stderr=output)
        before = finished(storage)
        while waiting and driver.poll() is None:
            time.sleep(rng.uniform(0.0, most_seconds))
            victim = _kill(driver, waiting[0])
            if victim is None:
                break
            waiting.pop(0)
            found.kills[victim] += 1
            before = _compare(before, finished(storage), found)
            say(f"killed the {victim}; {len(before)} runs are on record")
            if victim in _FATAL:
                _await_end(driver, victim, found)
                break
        code = driver.wait()
        _compare(before, finished(storage), found)
        if code == 0:
            if waiting:
                found.problems.append(f"ended before {', '.join(waiting)} could be killed")
            return found
        if found.launches > 3 * len(victims) + 5:
            found.problems.append(f"never ended: {log.read_text()[-2000:]}")
            return found


def finished(storage: Path) -> dict[str, int]:
    """Return the finished records of a storage with their times of change."""
    found = {}
    for path in (storage / "records").rglob("*.parquet"):
        status = pq.read_table(path, columns=["status"], partitioning=None)["status"][0].as_py()
        if status in ("ok", "diverged"):
            found[str(path.relative_to(storage))] = path.stat().st_mtime_ns
    return found


def scores(storage: Path) -> dict[str, tuple[float | None, float | None]]:
    """Return the dev and test macro-F1 of every record."""
    columns = ["dev_macro_f1", "test_macro_f1"]
    found = {}
    for name in finished(storage):
        [row] = pq.read_table(storage / name, columns=columns, partitioning=None).to_pylist()
        found[name] = (row["dev_macro_f1"], row["test_macro_f1"])
    return found


def _kill(driver: psutil.Popen, victim: str) -> str | None:
    """Kill a victim once there is one; return it, or None when the driver ended before."""
    deadline = time.monotonic() + _NO_VICTIM_SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        targets = list(_targets(driver, victim))
        if targets:
            for target in targets:
                with suppress(psutil.NoSuchProcess):
                    target.kill()
            return victim
        time.sleep(0.2)
    return None


def _targets(driver: psutil.Popen, victim: str) -> Iterator[psutil.Process]:
    if victim == "driver":
        yield driver
        return
    with suppress(psutil.NoSuchProcess):
        family = driver.children(recursive=True)
        if victim == "everything":
            yield from [driver, *family]
            return
        for process in family:
            with suppress(psutil.NoSuchProcess):
                if _ROLES[victim] in " ".join(process.cmdline()):
                    yield process
                    return


def _await_end(driver: psutil.Popen, victim: str, found: Outcome) -> None:
    """Wait for a driver whose Ray is gone, and end it as its user would when it does not notice."""
    try:
        driver.wait(_EXIT_SECONDS)
    except psutil.TimeoutExpired:
        found.hung.append(victim)
        for process in [*driver.children(recursive=True), driver]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    time.sleep(3)  # what the driver started dies with it


def _compare(before: Mapping[str, int], after: dict[str, int], found: Outcome) -> dict[str, int]:
    for name, changed in before.items():
        if name not in after:
            found.problems.append(f"record {name} is gone")
        elif after[name] != changed:
            found.problems.append(f"record {name} was written again")
    return after


def sweep_command(storage: Path, *flags: str) -> list[str]:
    """Return the command of a small sweep with a race: packaged model, a part of the demo."""
    small = [
        "--data.task=demo",
        "--data.train_fraction=0.15",
        "--data.evaluate_rows=60",
        "--model.max_tokens=32",
        "--training.epochs=1",
        "--training.precision=fp32",
        "--search.configurations=4",
        "--search.seeds=4",
        "--search.final_seeds=2",
    ]
    return [sys.executable, str(ROOT / "jobs" / "sweep.py"), f"--storage={storage}", *small, *flags]


def main() -> None:
    """Run a sweep undisturbed, then one with kills, and say what became of it."""
    options = _options()
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    subprocess.run(sweep_command(folder / "undisturbed"), check=True, cwd=folder)
    seconds = time.monotonic() - started
    rng = random.Random(options.seed)
    victims = [VICTIMS[n % len(VICTIMS)] for n in range(options.kills)]
    rng.shuffle(victims)
    command = sweep_command(folder / "disturbed")
    found = disturbed(command, folder / "disturbed", victims, rng, options.most_seconds or seconds)
    expected, got = scores(folder / "undisturbed"), scores(folder / "disturbed")
    if expected != got:
        found.problems.append(f"the ends differ: {set(expected.items()) ^ set(got.items())}")
    body = _report(found, len(got), seconds)
    print(body)
    if options.write:
        section.write(
            "interruptions", f"## A sweep that is killed\n\n{section.provenance()}\n\n{body}"
        )
    raise SystemExit(1 if found.problems else 0)


def _report(found: Outcome, runs: int, seconds: float) -> str:
    kills = ", ".join(f"{count} x {victim}" for victim, count in sorted(found.kills.items()))
    lines = [
        f"{found.kills.total()} kills at random moments of a sweep of {runs} runs (undisturbed "
        f"{seconds:.0f} s), {found.launches} launches of the same command: {kills}.",
        f"Drivers that did not notice within {_EXIT_SECONDS:.0f} s that their Ray was gone: "
        f"{', '.join(found.hung) or 'none'}.",
        "Finished runs repeated, records lost or doubled, differences of the final scores: "
        f"{'; '.join(found.problems) or 'none'}.",
    ]
    return "\n\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=16, help="how many")
    add("--seed", type=int, default=0, help="of victims and moments")
    add("--most-seconds", type=float, help="longest wait for a kill; the undisturbed sweep's time")
    add("--folder", default="runs/interruptions", help="where both sweeps keep their storages")
    add("--write", action="store_true", help="write the section of docs/BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
