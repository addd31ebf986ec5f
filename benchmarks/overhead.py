"""What Ray costs a sweep: the time of a job beside that of its runs in one process without Ray.

Both do the same runs with the same number of threads, one after the other: first the job, through
Tune and a group of workers, then a plain loop over the recorded plans, its process started, model
and corpus loaded once. What the job takes more is Ray's: its start, the workers' start, handing
runs out, recording them, and going home.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import section
from adapt_ray.records import RecordStore, run_records

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Time both and say what the difference is of the whole."""
    options = _options()
    folder = Path(options.folder).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flags = [
        "--data.task=demo",
        "--model.max_tokens=64",
        f"--training.epochs={options.epochs}",
        "--training.precision=fp32",
        "--only=[full]",
        f"--seeds={list(range(options.runs))}",
        f"--resources.cpus_per_worker={options.threads}",
    ]
    job = _timed([str(ROOT / "jobs" / "stability.py"), f"--storage={folder / 'job'}", *flags])
    loop = _timed([__file__, "--loop", str(folder / "loop"), *flags])
    runs = run_records(RecordStore(str(folder / "job")).all())
    own = [(run.train_seconds or 0.0) + (run.evaluate_seconds or 0.0) for run in runs]
    body = (
        f"{len(runs)} runs of {sum(own) / len(own):.0f} s, {options.threads} threads: the job took "
        f"{job:.0f} s, a loop in one process {loop:.0f} s. Ray's part of the job: "
        f"{(job - loop) / job:.1%} ({job - loop:.0f} s)."
    )
    print(body)
    if options.write:
        section.write(
            "overhead", f"## Ray's part of a sweep\n\n{section.provenance('ray')}\n\n{body}"
        )


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)
    return time.perf_counter() - started


def _loop(storage: str, flags: list[str]) -> None:
    """Do a stability job's runs in this process, without Ray."""
    import torch

    from adapt_ray.config import StabilityJob, parse
    from adapt_ray.distributed.compare import Comparison
    from adapt_ray.distributed.session import Session
    from adapt_ray.training.run import Inputs, execute

    job = parse(StabilityJob, [f"--storage={storage}", *flags], prog="overhead").config
    torch.set_num_threads(int(job.resources.cpus_per_worker))
    comparison = Comparison(job, Session(job.resources), find_only=False)
    comparison.check()
    plan = comparison.plan("full", {}, "stability", test=True)
    inputs = Inputs.of(plan)
    records = RecordStore(plan.storage)
    for seed in job.seeds:
        outcome = execute(plan, seed, inputs)
        records.write(outcome.record, outcome.predictions, outcome.curves)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--runs", type=int, default=5, help="how many")
    add("--epochs", type=int, default=2, help="of each run: two take about a minute on two cores")
    add(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of a worker, and of the loop: with fewer than all cores, the job runs two at a time",
    )
    add("--folder", default="runs/overhead", help="where both keep their storages; emptied first")
    add("--write", action="store_true", help="write the section of docs/BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        _loop(sys.argv[2], sys.argv[3:])
    else:
        main()
