"""What runs share, computed on Ray before they start: warmed-up embeddings and trunk states."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from adapt_ray.config import ResourcesConfig
from adapt_ray.distributed.desk import Result
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import Bench, WorkerPool
from adapt_ray.progress import Progress
from adapt_ray.training import trunk, warmup
from adapt_ray.training.run import RunPlan
from adapt_ray.training.trunk import FillShards, Shard, TrunkPlan, Written
from adapt_ray.training.trunk_space import Held
from adapt_ray.training.warmup import NewRows, WarmUpPlan

_MOST_SHARDS = 8  # of one piece of work, which loads the model anew


def warm_up(
    session: Session, plan: WarmUpPlan, resources: ResourcesConfig
) -> tuple[NewRows, Mapping[str, Any]]:
    """Warm up the embeddings of task tokens on one worker, with a progress bar."""
    session.start()
    threads = max(1, int(resources.cpus_per_worker))

    def with_threads(plan: WarmUpPlan) -> tuple[NewRows, Mapping[str, Any]]:
        torch.set_num_threads(threads)
        return warmup.warm_up(plan)

    task = ray.remote(with_threads).options(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker or None
    )
    with Progress("new embeddings", 1, "epoch") as progress:
        found: tuple[NewRows, Mapping[str, Any]] = ray.get(task.remote(plan))
        progress.update(f"dev macro-F1 {found[1]['dev_macro_f1']:.3f}")
    return found


@dataclass(frozen=True)
class Filling:
    """Some shards of a split's trunk states; the first worker of a group computes them."""

    plan: TrunkPlan
    attempt: str
    shards: Sequence[Shard]

    @property
    def key(self) -> str:
        """The attempt that it is part of, and its place in it."""
        return f"{self.attempt} {self.shards[0].file}"

    @property
    def place(self) -> str:
        """Always the beginning: it is short."""
        return ""

    def run(self, bench: Bench) -> Result:
        """Write the shards and return their digests and what they cost."""
        if bench.world.rank > 0:
            return {}
        written = list(trunk.run_here(self.plan, self.attempt, self.shards))
        return {
            "files": {name: digest for part in written for name, digest in part.files.items()},
            "flops": sum(part.flops for part in written),
        }


def hold(plan: RunPlan, pool: WorkerPool) -> dict[str, Held]:
    """Return the trunk states that a plan's runs read, computed now by the pool where missing.

    They stay while they are held. Raises InputError, before anything is computed, when they do not
    fit, and JobError when they cannot be computed.
    """
    return trunk.fill(plan.trunk, plan.splits, _by(pool)) if plan.trunk else {}


def _by(pool: WorkerPool) -> FillShards:
    def run(plan: TrunkPlan, attempt: str, pieces: Sequence[Shard]) -> Iterator[Written]:
        size = min(_MOST_SHARDS, math.ceil(len(pieces) / (2 * pool.groups)))
        starts = range(0, len(pieces), size)
        work = [Filling(plan, attempt, pieces[start : start + size]) for start in starts]
        for result in pool.do(work):
            yield Written(result["files"], result["flops"])

    return run
