"""Faults of processes: killed, stopped, hung, starved of memory, started twice."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

import interruptions
from chaos_scene import (
    FINETUNE,
    SWEEP,
    Broken,
    Fault,
    NotHere,
    Scene,
    checkpointed,
    recorded,
    wait_until,
)


def _killed(victim: str) -> Callable[[Scene], str]:
    """Return what kills a process of a sweep at a random moment, and goes on until the end."""

    def inject(scene: Scene) -> str:
        storage = scene.copy(runs=False)
        command = scene.command("sweep", storage, *SWEEP)
        rng = random.Random(victim)
        quiet: Callable[[str], None] = lambda line: None  # noqa: E731
        found = interruptions.disturbed(command, storage, [victim], rng, 25.0, quiet)
        problems = [p for p in found.problems if "before" not in p]
        if problems or found.hung:
            raise Broken("; ".join(problems) or "the driver hung")
        if not found.kills:
            raise Broken("the sweep ended before the kill")
        runs = scene.check_scores(storage)
        return f"{found.launches} launch(es), {runs} runs, none repeated, equal scores"

    return inject


def _killed_mining(scene: Scene) -> str:
    storage = scene.empty()
    driver = _start(scene, "mine", storage)
    wait_until(
        lambda: (
            any(storage.glob("artifacts/partitions/*/*/manifest.json"))
            or any(storage.glob("artifacts/patterns/*"))
            or driver.poll() is not None
        ),
        "partition",
    )
    _end_all(driver)
    scene.succeeds("mine", storage)
    scene.check_artifacts(storage)
    return "the same command went on; artifacts byte for byte the same"


def _asked_to_end(number: signal.Signals, status: int) -> Callable[[Scene], str]:
    def inject(scene: Scene) -> str:
        storage = scene.copy(runs=False)
        driver = _start(scene, "sweep", storage, *SWEEP)
        wait_until(lambda: recorded(storage) > 1 or driver.poll() is not None, "record")
        before = interruptions.finished(storage)
        family = driver.children(recursive=True)
        started = time.monotonic()
        driver.send_signal(number)
        found = driver.wait(60)
        seconds = time.monotonic() - started
        if found != status:
            raise Broken(f"status {found}, not {status}")
        _, alive = psutil.wait_procs(family, 60)
        if alive:
            raise Broken(f"left running: {[process.name() for process in alive]}")
        scene.succeeds("sweep", storage, *SWEEP)
        if not before.items() <= interruptions.finished(storage).items():
            raise Broken("a finished run was repeated")
        scene.check_scores(storage)
        return f"ended after {seconds:.1f} s with status {status}; the same command went on"

    return inject


def _hung(scene: Scene) -> str:
    """Stop a worker as a driver of a broken device or a dead mount would hang it."""
    storage = scene.copy(runs=False)
    patience = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "10"}
    driver = _start(scene, "finetune", storage, *FINETUNE, environment=patience)
    wait_until(lambda: checkpointed(storage) or driver.poll() is not None, "checkpoint")
    started = time.monotonic()
    _worker(driver).suspend()
    status = driver.wait(240)
    if status:
        raise Broken(f"status {status}")
    scene.check_scores(storage, ["finetune"])
    return (
        f"given up after {patience['RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S']} s without an answer "
        f"(as set here), done {time.monotonic() - started:.0f} s after it hung, same scores"
    )


def _starved(scene: Scene) -> str:
    """Let no allocation of a worker succeed any more."""
    if not hasattr(psutil, "RLIMIT_AS"):
        raise NotHere("limits of another process take Linux")
    storage = scene.copy(runs=False)
    driver = _start(scene, "finetune", storage, *FINETUNE)
    wait_until(lambda: checkpointed(storage) or driver.poll() is not None, "checkpoint")
    worker = _worker(driver)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms // 2,) * 2)
    status = driver.wait(240)
    if status:
        scene.succeeds("finetune", storage, *FINETUNE)
    scene.check_scores(storage, ["finetune"])
    again = "the same command went on" if status else "another worker went on by itself"
    return f"{again}, same scores"


def _twice(scene: Scene) -> str:
    storage = scene.copy(runs=False)
    drivers = [_start(scene, "sweep", storage, *SWEEP) for _ in range(2)]
    statuses = [driver.wait(500) for driver in drivers]
    if any(statuses):
        raise Broken(f"statuses {statuses}")
    runs = scene.check_scores(storage)
    return f"both ended well; {runs} runs, equal scores"


def _worker(driver: psutil.Popen) -> psutil.Process:
    for process in driver.children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            return process
    raise Broken("no worker was there")


def _start(
    scene: Scene,
    job: str,
    storage: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
) -> psutil.Popen:
    return psutil.Popen(
        scene.command(job, storage, *flags),
        cwd=scene.folder,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _end_all(driver: psutil.Popen) -> None:
    family = [*driver.children(recursive=True), driver]
    for process in family:
        process.kill()
    psutil.wait_procs(family, 60)


_ON = "no finished run repeated or lost, the same command ends as if nothing had been"
FAULTS = (
    *(Fault(f"sweep: {victim} killed", _ON, _killed(victim)) for victim in interruptions.VICTIMS),
    Fault("mining: everything killed", "the same command ends with the same", _killed_mining),
    Fault("sweep: SIGTERM", "ends in seconds with status 143, goes on",
          _asked_to_end(signal.SIGTERM, 143)),
    Fault("sweep: SIGINT", "ends in seconds with status 130, goes on",
          _asked_to_end(signal.SIGINT, 130)),
    Fault("training: worker hung", "found out, another goes on from its checkpoint", _hung),
    Fault("training: worker out of memory", "another goes on from its checkpoint", _starved),
    Fault("the same sweep started twice at once", "both end, one record a run", _twice),
)  # fmt: skip
