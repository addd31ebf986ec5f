"""Sensitivity on Ray Data: every task measures some batches, the partial results are merged.

Which batches a task gets depends on the texts alone, and partial results are merged in order, so
the map is the same whatever the number of workers.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from adapt_ray.config import ResourcesConfig
from adapt_ray.data.batches import evaluation_batches
from adapt_ray.distributed.session import Session
from adapt_ray.modeling import module_infos
from adapt_ray.progress import Progress
from adapt_ray.sensitivity.measure import (
    Loaded,
    MeasurePlan,
    Partial,
    SensitivityMap,
    measure_partial,
    merge,
)
from adapt_ray.training.world import default_device

_TOKENS_PER_BATCH = 4096
_BATCHES_PER_SHARD = 4


def measure(session: Session, plan: MeasurePlan, resources: ResourcesConfig) -> SensitivityMap:
    """Measure every selectable module on all training texts, with a progress bar."""
    session.start()
    loaded = plan.load()
    batches = evaluation_batches(loaded.texts.lengths, _TOKENS_PER_BATCH)
    shards = -(-len(batches) // _BATCHES_PER_SHARD)
    dataset = ray.data.from_items(
        [{"shard": number} for number in range(shards)], override_num_blocks=shards
    ).map_batches(
        functools.partial(
            _measure_shard, plan=plan, shards=shards, threads=int(resources.cpus_per_worker)
        ),
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker or None,
    )
    found: dict[int, dict[str, Partial]] = {}
    with Progress("sensitivity", shards, "shard") as progress:
        for row in dataset.iter_rows():
            found[row["shard"]] = _partials(row)
            progress.update()
    return merge(
        module_infos(loaded.model.backbone),
        loaded.model.original_parameters(),
        [found[number] for number in sorted(found)],
    )


# One plan at a time: a worker process measures many shards of it.
_load = functools.lru_cache(maxsize=1)(MeasurePlan.load)


def _measure_shard(batch: Any, plan: MeasurePlan, shards: int, threads: int) -> pa.Table:
    torch.set_num_threads(max(1, threads))
    device = default_device()
    loaded: Loaded = _load(plan)
    number = batch["shard"][0].as_py()
    rows = evaluation_batches(loaded.texts.lengths, _TOKENS_PER_BATCH)[number::shards]
    partials = measure_partial(loaded.model.to(device), loaded.batches(rows, device))
    values = list(partials.values())
    return pa.table(
        {
            "shard": [number],
            "module": [list(partials)],
            "count": [[p.count for p in values]],
            "mean": [[p.mean.tolist() for p in values]],
            "m2": [[p.m2.tolist() for p in values]],
            "examples": [[p.examples for p in values]],
            "norm_sum": [[p.norm_sum for p in values]],
        }
    )


def _partials(row: Mapping[str, Any]) -> dict[str, Partial]:
    return {
        name: Partial(
            int(row["count"][i]),
            np.array(row["mean"][i], dtype=np.float64),
            np.array(row["m2"][i], dtype=np.float64),
            int(row["examples"][i]),
            float(row["norm_sum"][i]),
        )
        for i, name in enumerate(row["module"])
    }
