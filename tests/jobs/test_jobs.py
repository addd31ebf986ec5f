"""The jobs as their users run them: real processes, a real local Ray, a real submission."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from local import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
Job = Callable[..., subprocess.CompletedProcess[str]]

SWEEP = [
    "--training.epochs=2",
    "--training.precision=fp32",
    "--search.configurations=2",
    "--search.seeds=2",
    "--search.final_seeds=2",
    "--search.racing=false",
    # The tiny model is nearly all embeddings: its modules hold 1.7% of it.
    "--contenders.adapt.method.sparsity=0.01",
    "--contenders.adapt.space={method.alpha: {low: 0.1, high: 1.0}}",
]


def files(folder: Path) -> dict[str, int]:
    """Return the files of artifacts and of recorded runs with their times of change.

    A run that was killed before its record may leave predictions, which its repetition replaces.
    """
    runs = {path.stem for path in records(folder)}
    return {
        str(path): path.stat().st_mtime_ns
        for kind in ("artifacts", "records", "predictions", "curves")
        for path in (folder / kind).rglob("*")
        if path.is_file() and (kind == "artifacts" or path.stem in runs)
    }


def records(folder: Path) -> list[Path]:
    return sorted((folder / "records").rglob("*.parquet"))


def test_the_chain_of_jobs_killed_and_continued(
    run_job: Job, small: list[str], tmp_path: Path
) -> None:
    """mine, then a sweep that is killed, continued, and started once more with nothing to do."""
    runs = tmp_path / "runs"
    mined = run_job("mine", *small)
    assert mined.returncode == 0, mined.stderr
    assert "task tokens; they add" in mined.stdout
    after_mining = files(runs)

    command = [sys.executable, str(ROOT / "jobs" / "sweep.py"), *small, *SWEEP]
    with (tmp_path / "killed.log").open("w") as log:
        killed = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    deadline = time.monotonic() + 240
    while len(records(runs)) < 3 and time.monotonic() < deadline:
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(3)  # what the driver started dies with it
    before = files(runs)
    assert 3 <= len(records(runs)) < 12
    assert after_mining.items() <= before.items(), "the sweep mined again"

    continued = run_job("sweep", *small, *SWEEP)
    assert continued.returncode == 0, continued.stderr
    whole = files(runs)
    assert before.items() <= whole.items(), "a finished run was repeated"
    assert len(records(runs)) == 12  # two contenders: two configurations, two seeds, two final
    assert "| adapt |" in continued.stdout
    assert "| full |" in continued.stdout
    report = Path(re.search(r"^report +(.+)$", continued.stdout, re.M)[1])  # type: ignore[index]
    assert "## Final comparison" in report.read_text()
    assert len(list(report.parent.glob("*.png"))) >= 4

    again = run_job("sweep", *small, *SWEEP)
    assert again.returncode == 0, again.stderr
    assert files(runs) == whole
    table = re.compile(r"^\| (adapt|full) .*$", re.M)
    assert table.findall(again.stdout) == table.findall(continued.stdout)

    planned = run_job("sweep", *small, *SWEEP, "--dry-run")
    assert planned.returncode == 0
    assert "8 of 8 seed-runs done" in planned.stdout

    reported = run_job("report", f"--storage={runs}", f"--report={tmp_path / 'elsewhere'}")
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "elsewhere" / "report.md").is_file()

    manifest = next(runs.glob("artifacts/patterns/*/attempt-*/patterns.parquet"))
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"?")
    damaged = run_job("mine", *small)
    assert damaged.returncode == 2
    assert "patterns.parquet changed after it was written" in damaged.stderr
    assert len(damaged.stderr.splitlines()) == 1


def test_nothing_frequent_goes_on_without_tokens_and_says_so(
    run_job: Job, small: list[str], tmp_path: Path
) -> None:
    flags = [*small, "--mining.min_support=500", "--training.epochs=1", "--test=true",
             "--method.sparsity=0.01"]  # fmt: skip
    done = run_job("finetune", *flags, "--export=models/demo")
    assert done.returncode == 0, done.stderr
    assert "no task tokens" in done.stdout
    row = pq.ParquetFile(records(tmp_path / "runs")[0]).read().to_pylist()[0]
    assert (row["new_tokens"], row["inserted_token_share"]) == (0, 0.0)
    assert row["test_macro_f1"] is not None
    assert (tmp_path / "models" / "demo" / "model.safetensors").is_file()
    assert f"{tmp_path}/models/demo" in done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpus=2) as cluster:
        yield cluster


def submit(cluster: LocalCluster, *command: str) -> subprocess.CompletedProcess[str]:
    submitting = ["ray", "job", "submit", "--working-dir", ".", "--", *command]
    return cluster.run(*submitting, cwd=ROOT, capture_output=True, timeout=400)


def test_a_failing_submission_has_a_failing_exit_code(cluster: LocalCluster) -> None:
    missing = submit(cluster, "python", "jobs/mine.py", "--data.source=/nowhere/x.csv",
                     "--storage=/tmp/never-written")  # fmt: skip
    assert missing.returncode != 0
    assert "/nowhere/x.csv" in missing.stdout + missing.stderr
    relative = submit(cluster, "python", "jobs/mine.py", "--storage=runs")
    assert relative.returncode != 0
    assert "temporary copy of the working directory" in relative.stdout + relative.stderr
