"""What faults are injected into: small jobs, and what they are held against afterwards."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import interruptions
import tiny

ROOT = Path(__file__).resolve().parents[1]
MINED = ("encoded", "patterns", "tokens")
# Two contenders, two configurations each over two seeds, and one final seed: ten runs.
SWEEP = (
    "--training.epochs=4",
    "--training.precision=fp32",
    "--search.configurations=2",
    "--search.seeds=2",
    "--search.final_seeds=1",
    "--search.racing=false",
    # The tiny model is nearly all embeddings: its modules hold 1.7% of it.
    "--contenders.adapt.method.sparsity=0.01",
    "--contenders.adapt.space={method.alpha: {low: 0.1, high: 1.0}}",
)
# One run that is long enough to be met in the middle, and keeps a checkpoint every second.
FINETUNE = (
    "--method.type=full",
    "--training.epochs=60",
    "--training.precision=fp32",
    "--training.checkpoint_seconds=1",
    "--training.patience=null",
)


class Broken(Exception):  # noqa: N818  no error of the program: what it finds out
    """A promise was not kept; the text says how."""


class NotHere(Exception):  # noqa: N818
    """A fault cannot be injected on this machine; the text says why."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; ``inject`` says what happened, or raises Broken."""

    name: str
    promise: str
    inject: Callable[["Scene"], str]


@dataclass(frozen=True)
class Scene:
    """A corpus, a model, and ``calm``: a storage that undisturbed jobs have filled."""

    folder: Path
    flags: tuple[str, ...]
    calm: Path

    @classmethod
    def prepared(cls, folder: Path) -> "Scene":
        """Make corpus and model, and run the jobs that nobody disturbs, unless that is done."""
        model, corpus = folder / "model", folder / "corpus.csv"
        if not corpus.exists():
            tiny.save_model(model)
            tiny.save_corpus(corpus)
        flags = tiny.flags(str(model), str(corpus))
        scene = cls(folder, tuple(flags), folder / "calm")
        for job, own in (("sweep", SWEEP), ("finetune", FINETUNE)):
            scene.succeeds(job, scene.calm, *own)
        return scene

    def command(self, job: str, storage: Path, *flags: str) -> list[str]:
        """Return the command of a job on the scene's corpus and model."""
        script = str(ROOT / "jobs" / f"{job}.py")
        own = () if job == "report" else self.flags  # which takes records alone
        return [sys.executable, script, f"--storage={storage}", *own, *flags]

    def run(
        self, job: str, storage: Path, *flags: str, under: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a job to its end, ``under`` another command where given."""
        return run([*under, *self.command(job, storage, *flags)], self.folder)

    def succeeds(self, job: str, storage: Path, *flags: str) -> str:
        """Run a job that must succeed; return what it printed."""
        done = self.run(job, storage, *flags)
        if done.returncode != 0:
            raise Broken(f"{job} ended with status {done.returncode}: {_end(done)}")
        return done.stdout + done.stderr

    def refuses(self, job: str, storage: Path, *words: str, flags: Sequence[str] = ()) -> str:
        """Run a job that must end in one line that holds some words; return the line."""
        done = self.run(job, storage, *flags)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode not in (1, 2) or len(lines) != 1 or "Traceback" in done.stderr:
            raise Broken(f"{job} ended with status {done.returncode}: {_end(done)}")
        missing = [word for word in words if word not in lines[0]]
        if missing:
            raise Broken(f"the error does not name {', '.join(missing)}: {lines[0]}")
        return lines[0]

    def empty(self) -> Path:
        """Return a storage with nothing in it."""
        storage = self.folder / uuid.uuid4().hex[:8] / "runs"
        storage.mkdir(parents=True)
        return storage

    def copy(self, *, runs: bool = True) -> Path:
        """Return a copy of the calm storage, with its runs or with artifacts alone."""
        storage = self.empty()
        shutil.copytree(self.calm, storage, dirs_exist_ok=True)
        if not runs:
            for kind in ("records", "predictions", "curves", "search", "checkpoints"):
                shutil.rmtree(storage / kind, ignore_errors=True)
        return storage

    def check_artifacts(self, storage: Path) -> None:
        """Raise Broken unless the mined artifacts are those of the calm storage, byte for byte."""
        wanted, found = (digests(place) for place in (self.calm, storage))
        differing = {key for key, files in wanted.items() if found.get(key) != files}
        if differing:
            raise Broken(f"artifacts differ from those of undisturbed jobs: {sorted(differing)}")

    def check_scores(self, storage: Path, phases: Sequence[str] = ("search", "final")) -> int:
        """Raise Broken unless the runs and their scores are the calm storage's; count them."""
        wanted, found = (_scores(place, phases) for place in (self.calm, storage))
        if wanted != found:
            raise Broken(
                f"{len(found)} runs, {len(wanted)} expected; "
                f"{len(wanted.items() - found.items())} missing or with other scores"
            )
        return len(found)


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, ten minutes at most."""
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False,
            env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Broken(f"hung for ten minutes: {' '.join(command[-3:])}") from None


def wait_until(true: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
    """Wait until something is so; Broken when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Broken(f"no {what} after {seconds:.0f} s")
        time.sleep(0.1)


def digests(storage: Path) -> dict[str, dict[str, str]]:
    """Return the file digests of the mined artifacts by stage and key."""
    found = {}
    for stage in MINED:
        for path in (storage / "artifacts" / stage).glob("*/manifest.json"):
            found[f"{stage}/{path.parent.name}"] = json.loads(path.read_text())["files"]
    return found


def recorded(storage: Path) -> int:
    """Return how many runs are on record."""
    return sum(1 for _ in (storage / "records").rglob("*.parquet"))


def checkpointed(storage: Path) -> bool:
    """Return whether a run has left something to resume from."""
    return any((storage / "checkpoints").rglob("latest.json"))


def _scores(storage: Path, phases: Sequence[str]) -> dict[str, tuple[float | None, float | None]]:
    import pyarrow.parquet as pq

    found = interruptions.scores(storage)
    phase = {
        name: pq.read_table(storage / name, columns=["phase"], partitioning=None)["phase"][0]
        for name in found
    }
    return {name: scores for name, scores in found.items() if phase[name].as_py() in phases}


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[-400:]
