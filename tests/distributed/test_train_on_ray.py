import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import adapt_ray
from adapt_ray.artifacts import ArtifactStore
from adapt_ray.config import AdaptConfig, FullConfig, ResourcesConfig
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import SeedRun, WorkerPool, unfinished
from adapt_ray.errors import JobError
from adapt_ray.records import RecordStore, RunRecord
from adapt_ray.training.run import Inputs, RunPlan, execute

pytestmark = pytest.mark.ray
PlanFor = Callable[..., RunPlan]


def record_of(plan: RunPlan, seed: int) -> RunRecord:
    record = RecordStore(plan.storage).get(plan.run_id(seed), plan.task, plan.method.type)
    assert record is not None
    return record


def saved_step(folder: Path) -> int | None:
    """Return after which step a run was last saved; None while it was not."""
    try:
        latest = json.loads((folder / "latest.json").read_text())
    except FileNotFoundError:
        return None
    return int(latest["folder"].removeprefix("step-"))


class Killer(threading.Thread):
    """Kills a worker as soon as a run is saved, and notes the steps saved before and after."""

    def __init__(self, plan: RunPlan, seed: int) -> None:
        super().__init__()
        self._folder = Path(plan.storage) / "checkpoints" / plan.run_id(seed)
        self._over = threading.Event()
        self.steps: list[int] = []
        self.killed_at: int | None = None

    def run(self) -> None:
        while not self._over.wait(0.02):
            step = saved_step(self._folder)
            if step is None or step in self.steps[-1:]:
                continue
            self.steps.append(step)
            if self.killed_at is None:
                self.killed_at = step
                os.kill(train_workers()[-1], signal.SIGKILL)

    def end(self) -> None:
        self._over.set()
        self.join()


def train_workers() -> list[int]:
    """Return the process ids of Ray Train's workers under the Ray of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@contextmanager
def killing(plan: RunPlan, seed: int) -> Iterator[None]:
    """Kill one worker in the middle of a run, and check that the run went on from there."""
    killer = Killer(plan, seed)
    killer.start()
    try:
        yield
    finally:
        killer.end()
    assert killer.killed_at is not None
    assert len(killer.steps) > 1
    assert killer.steps == sorted(killer.steps)  # a run that starts again is saved earlier again
    assert not killer._folder.exists()


def same_results(plan: RunPlan, found: RecordStore, seed: int, expected: RunRecord) -> None:
    """Check that a recorded run is another one, but for what has nothing to do with its results."""
    record = found.get(plan.run_id(seed), plan.task, plan.method.type)
    assert record is not None
    measured = {
        name: getattr(expected, name)
        for name in vars(record)
        if name.endswith(("seconds", "per_second", "started_at", "memory_bytes", "revision"))
    }
    assert replace(record, **measured) == expected


def run_seeds(
    session: Session,
    plan: RunPlan,
    seeds: Sequence[int],
    resources: ResourcesConfig,
    export_to: str | None = None,
) -> None:
    """Run seeds of a plan on a pool of one group, one after the other."""
    with WorkerPool(session, resources, f"{plan.storage}/ray") as pool:
        pool.groups = 1
        list(pool.do([SeedRun(plan, seed, export_to) for seed in seeds]))


def test_a_killed_worker_costs_no_finished_seed_and_the_run_goes_on(
    session: Session, plan_for: PlanFor, tmp_path: Path
) -> None:
    plan = plan_for(FullConfig(task_tokens=True), epochs=60, checkpoint_seconds=0.2)
    records = RecordStore(plan.storage)
    seeds = [20, 21, 22]
    with killing(plan, 21):
        run_seeds(session, plan, seeds, ResourcesConfig())
    assert unfinished(records, plan, seeds) == []
    assert record_of(plan, 20).started_at < record_of(plan, 21).started_at
    undisturbed = execute(plan, 21, Inputs.of(plan))
    same_results(plan, records, 21, undisturbed.record)
    assert records.predictions(plan.run_id(21)).equals(undisturbed.predictions)
    losses = records.curves(plan.run_id(21))["train_loss"]
    assert losses.equals(undisturbed.curves["train_loss"])


def test_two_deepspeed_workers_of_which_one_is_killed_end_as_undisturbed_ones(
    session: Session, plan_for: PlanFor, tmp_path: Path
) -> None:
    plan = plan_for(
        AdaptConfig(), engine="deepspeed", zero_stage=3, epochs=12, checkpoint_seconds=0.2
    )
    elsewhere = replace(plan, storage=str(tmp_path / "copy"))
    shutil.copytree(plan.storage, elsewhere.storage)
    two = ResourcesConfig(workers=2)
    model = tmp_path / "model"
    with killing(plan, 0):
        run_seeds(session, plan, [0], two, str(model))
    run_seeds(session, elsewhere, [0], two)
    expected = record_of(elsewhere, 0)
    assert (expected.status, expected.world_size, expected.zero_stage) == ("ok", 2, 3)
    records, undisturbed = RecordStore(plan.storage), RecordStore(elsewhere.storage)
    same_results(plan, records, 0, expected)
    predictions = records.predictions(plan.run_id(0))
    assert predictions.equals(undisturbed.predictions(plan.run_id(0)))

    texts = list(Inputs.of(plan).corpus.splits["dev"].texts)
    logits = np.array(predictions["logits"].to_pylist(), dtype=np.float32)
    found = adapt_ray.load(model).logits(texts)
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-4)


def test_a_damaged_corpus_ends_the_run_and_a_later_start_goes_on(
    session: Session, plan_for: PlanFor
) -> None:
    plan = plan_for(FullConfig(), epochs=1)
    store = ArtifactStore(plan.storage)
    file = Path(store.path(plan.corpus)) / "dev.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    try:
        with pytest.raises(JobError, match="changed after it was written"):
            run_seeds(session, plan, [30], ResourcesConfig())
    finally:
        file.write_bytes(content)
    records = RecordStore(plan.storage)
    assert unfinished(records, plan, [30]) == [30]
    run_seeds(session, plan, [30], ResourcesConfig())
    assert unfinished(records, plan, [30]) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_trains_on_a_gpu(
    session: Session, plan_for: PlanFor, tmp_path: Path, stage: int
) -> None:
    plan = plan_for(FullConfig(), engine="deepspeed", zero_stage=stage, precision="bf16", epochs=8)
    run_seeds(session, plan, [0], ResourcesConfig(gpus_per_worker=1))
    record = record_of(plan, 0)
    assert (record.status, record.memory_kind) == ("ok", "cuda")
    assert (record.dev_macro_f1 or 0) > record.majority_macro_f1
