"""Faults of files: damaged and lost artifacts, records and checkpoints, disks that refuse."""

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
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
    run,
    wait_until,
)

_CLOCK = Path(__file__).with_name("stepped_clock.c")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _artifact(damage: Callable[[Path], None], name: str) -> Callable[[Scene], str]:
    """Return what damages a file of the patterns, and repairs it as the error says."""

    def inject(scene: Scene) -> str:
        storage = scene.copy(runs=False)
        [path] = storage.glob(f"artifacts/patterns/*/{name}")
        damage(path)
        folder = next((storage / "artifacts" / "patterns").iterdir())
        scene.refuses("mine", storage, str(path), f"delete {folder}")
        shutil.rmtree(folder)
        scene.succeeds("mine", storage)
        scene.check_artifacts(storage)
        return "refused in one line that names the file; deleted as it says, computed the same"

    return inject


def _manifest_lost(scene: Scene) -> str:
    storage = scene.copy(runs=False)
    next(storage.glob("artifacts/patterns/*/manifest.json")).unlink()
    scene.succeeds("mine", storage)
    scene.check_artifacts(storage)
    return "computed again, byte for byte the same"


def _record(damage: Callable[[Path], None]) -> Callable[[Scene], str]:
    def inject(scene: Scene) -> str:
        storage = scene.copy()
        path = sorted(storage.rglob("records/**/*.parquet"))[0]
        damage(path)
        scene.refuses("report", storage, str(path), "delete it", flags=["--report=elsewhere"])
        path.unlink()
        scene.succeeds("sweep", storage, *SWEEP)
        scene.succeeds("finetune", storage, *FINETUNE)
        runs = scene.check_scores(storage, ("search", "final", "finetune"))
        return f"refused in one line; deleted as it says, repeated: {runs} runs with equal scores"

    return inject


def _predictions_lost(scene: Scene) -> str:
    storage = scene.copy()
    path = sorted((storage / "predictions").glob("*.parquet"))[0]
    path.unlink()
    scene.succeeds("sweep", storage, *SWEEP)
    scene.check_scores(storage)
    return "the sweep still reports from its records"


def _journal(damage: Callable[[Path], None]) -> Callable[[Scene], str]:
    def inject(scene: Scene) -> str:
        storage = scene.copy()
        before = interruptions.finished(storage)
        damage(next((storage / "search").glob("*.journal")))
        scene.succeeds("sweep", storage, *SWEEP)
        if interruptions.finished(storage) != before:
            raise Broken("runs were repeated")
        scene.check_scores(storage)
        return "the search goes by the records: nothing was run again"

    return inject


def _partition_damaged(scene: Scene) -> str:
    storage = scene.empty()
    scene.refuses("mine", storage, "max_patterns", flags=["--mining.max_patterns=60"])
    parts = sorted(storage.glob("artifacts/partitions/*/*/attempt-*/*.parquet"))
    if not parts:
        raise Broken("no finished partition was kept")
    _flip(parts[0])
    printed = scene.succeeds("mine", storage)
    if "mined again" not in printed:
        raise Broken("the damaged partition was not mined again")
    scene.check_artifacts(storage)
    return f"of {len(parts)} finished partitions the damaged one was mined again, and said so"


def _leftovers(scene: Scene) -> str:
    storage = scene.copy()
    record = sorted(storage.rglob("records/**/*.parquet"))[0]
    record.with_name(f".{record.name}.0a1b2c3d").write_bytes(b"half")
    attempt = next(storage.glob("artifacts/patterns/*")) / "attempt-0123456789ab"
    attempt.mkdir()
    (attempt / "patterns.parquet").write_bytes(b"half")
    before = interruptions.finished(storage)
    scene.succeeds("sweep", storage, *SWEEP)
    if interruptions.finished(storage) != before:
        raise Broken("runs were repeated")
    return "passed over: nothing was run again"


def _checkpoint(damage: Callable[[Path], None], name: str) -> Callable[[Scene], str]:
    def inject(scene: Scene) -> str:
        storage = scene.copy(runs=False)
        killed_in_training(scene, storage)
        path = sorted(storage.glob(f"checkpoints/*/{name}"))[0]
        damage(path)
        scene.refuses("finetune", storage, "checkpoint", "delete", flags=FINETUNE)
        shutil.rmtree(storage / "checkpoints")
        shutil.rmtree(storage / "records", ignore_errors=True)
        scene.succeeds("finetune", storage, *FINETUNE)
        scene.check_scores(storage, ["finetune"])
        return "refused in one line; deleted as it says, the run ends with the same scores"

    return inject


def _killed_with_checkpoint(scene: Scene) -> str:
    storage = scene.copy(runs=False)
    killed_in_training(scene, storage)
    scene.succeeds("finetune", storage, *FINETUNE)
    scene.check_scores(storage, ["finetune"])
    return "went on from its checkpoint, same scores"


def killed_in_training(scene: Scene, storage: Path) -> None:
    """Kill a run and its Ray once it has a checkpoint."""
    driver = psutil.Popen(
        scene.command("finetune", storage, *FINETUNE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: checkpointed(storage) or driver.poll() is not None, "checkpoint")
    for process in [*driver.children(recursive=True), driver]:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([driver])
    if not checkpointed(storage):
        raise Broken("no checkpoint was left")


def _mounted(script: str, scene: Scene) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own."""
    if (
        shutil.which("unshare") is None
        or run(["unshare", "--mount", "true"], scene.folder).returncode
    ):
        raise NotHere("mounting takes root on Linux")
    return run(["unshare", "--mount", "sh", "-c", script], scene.folder)


def _read_only(scene: Scene) -> str:
    storage = scene.copy(runs=False)
    place = shlex.quote(str(storage))
    mine = shlex.join(scene.command("mine", storage, "--mining.min_support=4"))
    done = _mounted(
        f"mount --bind {place} {place} && mount -o remount,ro,bind {place} && {mine}", scene
    )
    lines = done.stderr.strip().splitlines()
    if done.returncode not in (1, 2) or not lines or not lines[-1].startswith("error: "):
        raise Broken(f"status {done.returncode}: {done.stderr[-300:]}")
    return f"refused in one line: {lines[-1].replace(str(storage), 'STORAGE')}"


def _full(
    job: str, kilobytes: int, flags: tuple[str, ...], phases: list[str]
) -> Callable[[Scene], str]:
    """Return what runs a job on a disk that is nearly full, and again when there is room."""

    def inject(scene: Scene) -> str:
        storage = scene.empty()
        place, command = shlex.quote(str(storage)), shlex.join(scene.command(job, storage, *flags))
        kept = scene.folder / f"{storage.parent.name}-kept"
        calm = shlex.quote(str(scene.calm / "artifacts"))
        fill = f"cp -a {calm} {place}/ && " if job == "finetune" else ""
        room = (
            f"free=$(df --output=avail -k {place} | tail -n 1); "
            f"head -c $(((free - {kilobytes}) * 1024)) /dev/zero > {place}/filler"
        )
        done = _mounted(
            f"mount -t tmpfs -o size=200m none {place} && {fill}{room}; "
            f"{command} > first.out 2> first.err; echo $? > first.status; "
            f"rm {place}/filler; {command} > second.out 2> second.err; echo $? > second.status; "
            f"cp -a {place} {shlex.quote(str(kept))}",
            scene,
        )
        first, second = (
            (scene.folder / f"{n}.status").read_text().strip() for n in ("first", "second")
        )
        said = (scene.folder / "first.err").read_text()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if first == "0":
            raise Broken("the disk was not full enough")
        if "Traceback" in said or len(errors) != 1:
            raise Broken(f"status {first}, no single line: {said[-400:]}")
        if second != "0":
            said = (scene.folder / "second.err").read_text()
            raise Broken(f"with room again: status {second}: {said[-300:]}")
        if done.returncode:
            raise Broken(done.stderr[-300:])
        if phases:
            scene.check_scores(kept, phases)
        else:
            scene.check_artifacts(kept)
        return f"ended in one line ({_without(errors[0], storage)}); with room again, the same end"

    return inject


def _without(line: str, storage: Path) -> str:
    return line.replace(str(storage), "STORAGE")[:160]


def _export_full(scene: Scene) -> str:
    storage, target = scene.copy(), scene.folder / f"models-{id(scene)}"
    target.mkdir(exist_ok=True)
    command = shlex.join(scene.command("finetune", storage, *FINETUNE, f"--export={target}/model"))
    quoted = shlex.quote(str(target))
    done = _mounted(
        f"mount -t tmpfs -o size=2m none {quoted} && {command}; echo $? > export.status; "
        f"ls -A {quoted} > export.list",
        scene,
    )
    left = (scene.folder / "export.list").read_text().split()
    if (scene.folder / "export.status").read_text().strip() == "0":
        raise Broken("the disk was not full enough")
    if left:
        raise Broken(f"left behind: {left}")
    if "Traceback" in done.stderr:
        raise Broken(f"a traceback: {done.stderr[-300:]}")
    return "the job failed and said so, nothing half-written was left"


def _clock(scene: Scene) -> str:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise NotHere("stepping the clock of a few processes takes Linux and a C compiler")
    library = scene.folder / "stepped_clock.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _CLOCK], check=True)
    storage = scene.copy(runs=False)
    clock = scene.folder / "clock"
    clock.write_text("0")
    command = ["env", f"LD_PRELOAD={library}", f"STEPPED_CLOCK={clock}",
               *scene.command("sweep", storage, *SWEEP)]  # fmt: skip
    log = scene.folder / "clock.log"
    with log.open("w") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=output)
        seen = 0
        for step in ("7200", "-7200"):
            seen += 2
            wait_until(
                lambda least=seen: (
                    len(interruptions.finished(storage)) >= least  # type: ignore[misc]
                    or driver.poll() is not None
                ),
                "record",
            )
            clock.write_text(step)
        status = driver.wait(400)
    if status:
        raise Broken(f"status {status}: {log.read_text()[-300:]}")
    runs = scene.check_scores(storage)
    return f"two hours forwards, then four back, of driver and workers: {runs} runs, equal scores"


FAULTS = (
    Fault("artifact file truncated", "refused, named, recomputed once deleted",
          _artifact(_truncate, "attempt-*/patterns.parquet")),
    Fault("artifact file with a changed byte", "refused, named, recomputed once deleted",
          _artifact(_flip, "attempt-*/patterns.parquet")),
    Fault("artifact file lost", "refused, named, recomputed once deleted",
          _artifact(Path.unlink, "attempt-*/patterns.parquet")),
    Fault("artifact manifest truncated", "refused, named, recomputed once deleted",
          _artifact(_truncate, "manifest.json")),
    Fault("artifact manifest lost", "computed again", _manifest_lost),
    Fault("mining partition damaged", "only that one is mined again", _partition_damaged),
    Fault("leftovers of a killed writer", "passed over", _leftovers),
    Fault("record truncated", "refused, named, only that run is repeated", _record(_truncate)),
    Fault("record with a changed byte", "refused, named, only that run is repeated",
          _record(_flip)),
    Fault("record emptied", "refused, named, only that run is repeated",
          _record(_empty)),
    Fault("predictions of a run lost", "scores stand, the report is written", _predictions_lost),
    Fault("search journal truncated", "the records count", _journal(_truncate)),
    Fault("search journal lost", "the records count", _journal(Path.unlink)),
    Fault("run killed between checkpoints", "goes on from the last", _killed_with_checkpoint),
    Fault("checkpoint file truncated", "refused, named, run starts again once deleted",
          _checkpoint(_truncate, "step-*/*")),
    Fault("checkpoint pointer truncated", "refused, named, run starts again once deleted",
          _checkpoint(_truncate, "latest.json")),
    Fault("storage read-only", "refused at the start", _read_only),
    Fault("disk full while mining", "one line; goes on with room",
          _full("mine", 60, (), [])),
    Fault("disk full while training", "one line; goes on with room",
          _full("finetune", 200, FINETUNE, ["finetune"])),
    Fault("disk full while a model is exported", "no half-written model", _export_full),
    Fault("clock steps by hours", "no effect", _clock),
)  # fmt: skip
