import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from adapt_ray.artifacts import ArtifactStore
from adapt_ray.config import AdaptConfig, ResourcesConfig, WatchConfig
from adapt_ray.distributed import sweep
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import WorkerPool
from adapt_ray.distributed.trunk import hold, warm_up
from adapt_ray.records import RecordStore
from adapt_ray.training import trunk, warmup
from adapt_ray.training.run import Inputs, RunPlan, execute
from adapt_ray.training.warmup import WarmUpPlan

pytestmark = pytest.mark.ray

ABOVE = ("encoder.layer.1.attention.self.value", "encoder.layer.1.output.dense")


def test_runs_share_what_ray_computed_and_equal_runs_without_it(
    session: Session,
    plan_for: Callable[..., RunPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trunk, "SHARD_BYTES", 32 * 4 * 40)
    frozen = plan_for(AdaptConfig(new_rows="frozen"), modules=ABOVE, trunk_cache="fp32")
    assert frozen.tokens is not None
    warm = WarmUpPlan(frozen.storage, frozen.corpus, frozen.tokens, frozen.model, "mean", "fp32")
    rows, notes = warm_up(session, warm, ResourcesConfig())
    assert torch.equal(rows.rows, warmup.warm_up(warm)[0].rows)

    plan = dataclasses.replace(
        frozen,
        method=AdaptConfig(new_rows="warmup"),
        new_rows=ArtifactStore(frozen.storage).publish(warm.stage, rows, notes),
    )
    in_bf16 = dataclasses.replace(
        plan, training=plan.training.model_copy(update={"trunk_cache": "bf16"})
    )
    assert in_bf16.trunk is not None
    with WorkerPool(session, ResourcesConfig(), f"{plan.storage}/ray") as pool:
        held = hold(in_bf16, pool)
        states = Inputs.of(in_bf16).examples["train"].states
        for each in held.values():
            each.lock.close()
    assert states is not None
    assert len(states.held.manifest.files) > 3
    texts = in_bf16.trunk.texts("train")
    encoded = texts.tokenizer.encode_texts(texts.texts)  # no text occurs twice
    expected = in_bf16.trunk.trunk().flat_states(encoded, texts.tokenizer.pad_id, torch.bfloat16)
    found = [s[:n] for s, n in zip(states.batch(np.arange(40)), encoded.lengths, strict=True)]
    torch.testing.assert_close(torch.cat(found), expected)

    with sweep.Stage(session, ResourcesConfig(), plan.storage, WatchConfig()) as stage:
        sweep.run_all(stage, [sweep.Runs(plan, [0, 1])])
    without = dataclasses.replace(
        plan, training=plan.training.model_copy(update={"trunk_cache": "off"})
    )
    records = RecordStore(plan.storage)
    for seed in (0, 1):
        record = records.get(plan.run_id(seed), plan.task, "adapt")
        assert record is not None
        assert (record.trunk_cache, record.cut_layer) == ("fp32", 1)
        alone = execute(without, seed, Inputs.of(without))
        np.testing.assert_allclose(
            records.curves(plan.run_id(seed))["train_loss"].to_numpy(),
            alone.curves["train_loss"].to_numpy(),
            atol=1e-5,
        )
