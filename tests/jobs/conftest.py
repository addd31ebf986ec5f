"""Running jobs as a user does, in this process or in one of their own."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).resolve().parents[2]
Job = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a job's ``main`` in this process: for jobs that must stop before they start Ray."""
    monkeypatch.syspath_prepend(str(ROOT))

    def run(job: str, *argv: str) -> tuple[int, str, str]:
        from adapt_ray import cli, config

        module = importlib.import_module(f"jobs.{job}")
        monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *argv])
        model = getattr(config, f"{job.capitalize()}Job")
        status = cli.main(model, getattr(module, job))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def run_job(tmp_path: Path) -> Job:
    """Run a job as its own process, from another folder."""

    def run(job: str, *argv: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file of 240 rows of the demo corpus under other column names."""
    return Path(tiny.save_corpus(tmp_path_factory.mktemp("data") / "small corpus.csv"))


@pytest.fixture
def small(small_corpus: Path, tiny_model: str, tmp_path: Path) -> list[str]:
    """Return the flags of a job on the small corpus and the tiny model."""
    return [f"--storage={tmp_path / 'runs'}", *tiny.flags(tiny_model, str(small_corpus))]
