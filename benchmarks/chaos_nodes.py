"""Faults of nodes and networks, on a cluster of several nodes on this machine."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import interruptions
from chaos_scene import (
    FINETUNE,
    ROOT,
    SWEEP,
    Broken,
    Fault,
    NotHere,
    Scene,
    checkpointed,
    recorded,
    wait_until,
)
from local import LocalCluster, Node, can_use_namespaces

_SPREAD = ("--resources.workers=2",)


@contextmanager
def _cluster(nodes: int = 3) -> Iterator[LocalCluster]:
    """Start a cluster of nodes with one CPU each: two workers of a run lie on two nodes."""
    with LocalCluster(1, namespaces=can_use_namespaces()) as cluster:
        for _ in range(nodes - 1):
            cluster.start_node()
        yield cluster


def _start(
    cluster: LocalCluster, scene: Scene, job: str, storage: Path, *flags: str
) -> subprocess.Popen[str]:
    command = scene.command(job, storage, *flags)
    with (scene.folder / "driver.log").open("w") as log:
        return cluster.popen("python", *command[1:], stdout=log, stderr=log, cwd=scene.folder)


def _finish(driver: subprocess.Popen[str], scene: Scene) -> None:
    try:
        status = driver.wait(400)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise Broken(f"hung: {_said(scene)}") from None
    if status:
        raise Broken(f"status {status}: {_said(scene)}")


def _said(scene: Scene) -> str:
    return (scene.folder / "driver.log").read_text()[-400:]


def _busy(cluster: LocalCluster, word: str) -> Node | None:
    """Return a node, the head apart, where a process with a word in its command line runs."""
    for node in cluster.nodes[1:]:
        if node.process.poll() is None:
            family = psutil.Process(node.process.pid).children(recursive=True)
            with suppress(psutil.Error):
                if any(word in " ".join(process.cmdline()) for process in family):
                    return node
    return None


def _await_busy(cluster: LocalCluster, word: str) -> Node:
    wait_until(lambda: _busy(cluster, word) is not None, f"{word} on another node")
    node = _busy(cluster, word)
    assert node is not None
    return node


def _lost_in_mining(scene: Scene) -> str:
    storage = scene.empty()
    with _cluster() as cluster:
        driver = _start(cluster, scene, "mine", storage)
        node = _await_busy(cluster, "ray::Map")
        cluster.kill(node)
        _finish(driver, scene)
    scene.check_artifacts(storage)
    return "its tasks ran on another node; artifacts byte for byte the same"


def _lost_in_training(scene: Scene) -> str:
    """Kill one of two nodes that train together; a third takes its place."""
    calm, storage = (scene.copy(runs=False) for _ in range(2))
    with _cluster() as cluster:
        _finish(_start(cluster, scene, "finetune", calm, *FINETUNE, *_SPREAD), scene)
        driver = _start(cluster, scene, "finetune", storage, *FINETUNE, *_SPREAD)
        wait_until(lambda: checkpointed(storage) or driver.poll() is not None, "checkpoint")
        cluster.kill(_await_busy(cluster, "RayTrainWorker"))
        started = time.monotonic()
        _finish(driver, scene)
    _equal(calm, storage)
    seconds = time.monotonic() - started
    return f"two workers went on from their checkpoint, done after {seconds:.0f} s, same scores"


def _lost_in_sweep(scene: Scene) -> str:
    storage = scene.copy(runs=False)
    with _cluster() as cluster:
        driver = _start(cluster, scene, "sweep", storage, *SWEEP)
        wait_until(lambda: recorded(storage) > 0 or driver.poll() is not None, "record")
        before = interruptions.finished(storage)
        cluster.kill(_await_busy(cluster, "RayTrainWorker"))
        _finish(driver, scene)
    if not before.items() <= interruptions.finished(storage).items():
        raise Broken("a finished run was repeated")
    runs = scene.check_scores(storage)
    return f"the sweep went on with the nodes that were left: {runs} runs, equal scores"


def _head_lost(scene: Scene) -> str:
    """Kill the head with the driver on it; the same command goes on, on another cluster."""
    storage = scene.copy(runs=False)
    with _cluster(2) as cluster:
        driver = _start(cluster, scene, "sweep", storage, *SWEEP)
        wait_until(lambda: recorded(storage) > 0 or driver.poll() is not None, "record")
        before = interruptions.finished(storage)
        cluster.kill(cluster.nodes[0])
        driver.kill()
        driver.wait()
    with _cluster(2) as cluster:
        _finish(_start(cluster, scene, "sweep", storage, *SWEEP), scene)
    if not before.items() <= interruptions.finished(storage).items():
        raise Broken("a finished run was repeated")
    runs = scene.check_scores(storage)
    return f"another cluster went on: {runs} runs, equal scores"


def _cut(seconds: float) -> Callable[[Scene], str]:
    """Return what takes a training node's network away for some seconds."""

    def inject(scene: Scene) -> str:
        if not can_use_namespaces():
            raise NotHere("network namespaces take root on Linux")
        calm, storage = (scene.copy(runs=False) for _ in range(2))
        with _cluster() as cluster:
            _finish(_start(cluster, scene, "finetune", calm, *FINETUNE, *_SPREAD), scene)
            driver = _start(cluster, scene, "finetune", storage, *FINETUNE, *_SPREAD)
            wait_until(lambda: checkpointed(storage) or driver.poll() is not None, "checkpoint")
            node = _await_busy(cluster, "RayTrainWorker")
            cluster.cut(node)
            time.sleep(seconds)
            cluster.restore(node)
            _finish(driver, scene)
        _equal(calm, storage)
        return "the run ended with the same scores"

    return inject


def _unshared(scene: Scene) -> str:
    private = scene.folder / "private"
    private.mkdir(exist_ok=True)
    with _cluster(1) as cluster:
        try:
            cluster.start_node(hide=private)
        except RuntimeError as error:
            raise NotHere("hiding a folder from a node takes root on Linux") from error
        started = time.monotonic()
        command = scene.command("mine", private / "runs")
        done = cluster.run("python", *command[1:], capture_output=True, cwd=scene.folder)
    if done.returncode != 2 or "is not shared by all nodes" not in done.stderr:
        raise Broken(f"status {done.returncode}: {done.stderr[-300:]}")
    return (
        f"refused in one line that names the node, {time.monotonic() - started:.0f} s after start"
    )


def _joined(scene: Scene) -> str:
    """Let a node join in the middle: two workers wait for it."""
    storage = scene.copy(runs=False)
    with _cluster(1) as cluster:
        driver = _start(cluster, scene, "finetune", storage, *FINETUNE, *_SPREAD)
        time.sleep(20)
        if recorded(storage) or driver.poll() is not None:
            raise Broken(f"two workers did not wait for a second node: {_said(scene)}")
        cluster.start_node()
        _finish(driver, scene)
    if recorded(storage) != 1:
        raise Broken("no record")
    return "the run waited for a second node, and took it"


def _stopped(scene: Scene) -> str:
    """Stop a sweep that was submitted with its code, and submit it again."""
    storage = scene.copy(runs=False)
    command = ["python", "jobs/sweep.py", *scene.command("sweep", storage, *SWEEP)[2:]]
    with _cluster(2) as cluster:
        submit = ["ray", "job", "submit", "--working-dir", str(ROOT), "--submission-id"]
        cluster.run(*submit, "first", "--no-wait", "--", *command, check=True, capture_output=True)
        wait_until(lambda: recorded(storage) > 0, "record")
        before = interruptions.finished(storage)
        stopped = cluster.run("ray", "job", "stop", "first", capture_output=True)
        status = cluster.run("ray", "job", "status", "first", capture_output=True)
        if "was stopped" not in status.stdout + status.stderr + stopped.stdout + stopped.stderr:
            raise Broken(f"not stopped: {status.stdout[-300:]}")
        again = cluster.run(*submit, "second", "--", *command, capture_output=True)
        if again.returncode:
            raise Broken(f"status {again.returncode}: {again.stdout[-300:]}")
    if not before.items() <= interruptions.finished(storage).items():
        raise Broken("a finished run was repeated")
    runs = scene.check_scores(storage)
    return f"stopped; submitted again, it went on: {runs} runs, equal scores"


def _equal(calm: Path, storage: Path) -> None:
    wanted, found = interruptions.scores(calm), interruptions.scores(storage)
    if wanted != found or not wanted:
        raise Broken(f"scores {found}, undisturbed {wanted}")
    for place in (calm, storage):
        shutil.rmtree(place)


FAULTS = (
    Fault("node lost in mining", "the same artifacts", _lost_in_mining),
    Fault("node lost in training with two workers", "goes on from the checkpoint, same scores",
          _lost_in_training),
    Fault("node lost in a sweep", "goes on, no finished run repeated", _lost_in_sweep),
    Fault("head node lost in a sweep", "another cluster goes on", _head_lost),
    Fault("network of a training node cut for 3 s", "same scores", _cut(3)),
    Fault("network of a training node cut for 30 s", "same scores", _cut(30)),
    Fault("storage that a node does not share", "refused at the start", _unshared),
    Fault("node joins while a run waits", "taken", _joined),
    Fault("submitted sweep stopped", "submitted again, it goes on", _stopped),
)  # fmt: skip
