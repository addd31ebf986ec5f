import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pytest

import adapt_ray
from adapt_ray.artifacts import ArtifactStore
from adapt_ray.config import AdaptConfig, FullConfig, ResourcesConfig
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import mean_over_seeds, run_seeds, unfinished
from adapt_ray.records import RecordStore
from adapt_ray.training.run import Inputs, RunPlan, execute

pytestmark = pytest.mark.ray
PlanFor = Callable[..., RunPlan]


def losses(curves: pa.Table) -> npt.NDArray[np.float64]:
    return curves["train_loss"].to_numpy()


def recorded(plan: RunPlan, seed: int = 0) -> npt.NDArray[np.float64]:
    return losses(RecordStore(plan.storage).curves(plan.run_id(seed)))


@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_on_two_workers_trains_as_the_plain_engine_alone(
    session: Session, plan_for: PlanFor, tmp_path: Path, stage: int
) -> None:
    # Dropout draws differ between worlds; without it the loss curves must agree.
    plan = plan_for(AdaptConfig(), engine="deepspeed", zero_stage=stage, dropout=False)
    run_seeds(
        plan,
        [0],
        ResourcesConfig(workers=2),
        folder=str(tmp_path / "ray"),
        export_to=str(tmp_path / "model"),
    )
    record = RecordStore(plan.storage).get(plan.run_id(0), plan.task, "adapt")
    assert record is not None
    assert (record.status, record.world_size, record.zero_stage) == ("ok", 2, stage)
    alone = execute(plan_for(AdaptConfig(), dropout=False), 0, Inputs.of(plan))
    np.testing.assert_allclose(recorded(plan), losses(alone.curves), rtol=1e-4)

    predictions = RecordStore(plan.storage).predictions(plan.run_id(0))
    texts = list(Inputs.of(plan).corpus.splits["dev"].texts)
    found = adapt_ray.load(tmp_path / "model").logits(texts)
    expected = np.array(predictions["logits"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_two_plain_workers_train_as_one(
    session: Session, plan_for: PlanFor, tmp_path: Path
) -> None:
    plan = plan_for(FullConfig(task_tokens=True), dropout=False, batch_size=7)
    alone = execute(plan, 5, Inputs.of(plan))
    run_seeds(plan, [5], ResourcesConfig(workers=2), folder=str(tmp_path))
    np.testing.assert_allclose(recorded(plan, 5), losses(alone.curves), rtol=1e-4)


def test_a_killed_worker_costs_no_finished_seed(
    session: Session, plan_for: PlanFor, tmp_path: Path
) -> None:
    plan = plan_for(FullConfig(), epochs=12)
    records = RecordStore(plan.storage)
    seeds = [20, 21, 22]
    killed: list[int] = []

    def kill_after_the_first_seed() -> None:
        deadline = time.monotonic() + 120
        while unfinished(records, plan, seeds[:1]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in psutil.process_iter(["pid", "cmdline"]):
            if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
                os.kill(process.info["pid"], signal.SIGKILL)
                killed.append(process.info["pid"])

    thread = threading.Thread(target=kill_after_the_first_seed)
    thread.start()
    run_seeds(plan, seeds, ResourcesConfig(), folder=str(tmp_path))
    thread.join()
    assert killed
    assert unfinished(records, plan, seeds) == []
    first = records.get(plan.run_id(20), plan.task, "full")
    third = records.get(plan.run_id(22), plan.task, "full")
    assert first is not None
    assert third is not None
    assert first.started_at < third.started_at
    found = [records.get(plan.run_id(seed), plan.task, "full") for seed in seeds]
    means = [record.dev_macro_f1 for record in found if record and record.dev_macro_f1]
    assert mean_over_seeds(records, plan, seeds) == pytest.approx(np.mean(means))


def test_a_damaged_corpus_ends_the_run_and_a_later_start_goes_on(
    session: Session, plan_for: PlanFor, tmp_path: Path
) -> None:
    plan = plan_for(FullConfig(), epochs=1)
    store = ArtifactStore(plan.storage)
    file = Path(store.path(plan.corpus)) / "dev.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    try:
        with pytest.raises(Exception, match="changed after it was written"):
            run_seeds(plan, [30], ResourcesConfig(), folder=str(tmp_path / "broken"))
    finally:
        file.write_bytes(content)
    records = RecordStore(plan.storage)
    assert unfinished(records, plan, [30]) == [30]
    run_seeds(plan, [30], ResourcesConfig(), folder=str(tmp_path / "mended"))
    assert unfinished(records, plan, [30]) == []
