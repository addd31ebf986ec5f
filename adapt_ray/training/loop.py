"""The training loop: the same for every method and engine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from adapt_ray import seeding
from adapt_ray.config import TrainingConfig
from adapt_ray.data.batches import epoch_batches, rank_share
from adapt_ray.modeling import Batch
from adapt_ray.tokenization.encoding import EncodedTexts
from adapt_ray.training.engine import Engine
from adapt_ray.training.evaluate import Scores
from adapt_ray.training.world import World


class DivergedError(ArithmeticError):
    """The training loss became infinite or not a number."""


@dataclass(frozen=True)
class TrainSplit:
    """What the loop trains on."""

    texts: EncodedTexts
    labels: npt.NDArray[np.int64]  # [n_texts]
    pad_id: int


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve."""

    epoch: int  # from 1
    train_loss: float  # mean over the epoch's examples
    dev: Scores
    train_seconds: float


def total_steps(config: TrainingConfig, n_texts: int) -> int:
    """Return the number of optimizer steps of a run."""
    return config.epochs * -(-n_texts // config.batch_size)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the rate of a step (from 0): linear warm-up to the peak, then linear decay."""
    warm = round(config.warmup * steps)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * (steps - step) / (steps - warm)


def train(
    model: nn.Module,
    engine: Engine,
    split: TrainSplit,
    config: TrainingConfig,
    seed: int,
    world: World,
    evaluate: Callable[[], Scores],
) -> list[Epoch]:
    """Train for ``config.epochs`` epochs, evaluating after each.

    Every method sees the same batches in the same order, because they are cut by base length.
    Raises DivergedError when the loss stops being finite.
    """
    torch.manual_seed(seeding.derive(seed, "dropout", world.rank))
    steps = total_steps(config, len(split.texts))
    step = 0
    curve = []
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        lost = 0.0
        for rows in epoch_batches(split.texts.base_lengths, config.batch_size, seed, epoch):
            loss = global_loss(engine, split, rows, world)
            value = float(world.total(loss.detach())) / world.size
            if not math.isfinite(value):
                raise DivergedError(f"loss is {value} at step {step + 1} of {steps}")
            engine.step(loss, learning_rate(config, step, steps))
            lost += value * len(rows)
            step += 1
        seconds = time.perf_counter() - started
        model.eval()
        curve.append(Epoch(epoch, lost / len(split.texts), evaluate(), seconds))
    return curve


def global_loss(
    engine: Engine, split: TrainSplit, rows: npt.NDArray[np.int64], world: World
) -> Tensor:
    """Return this worker's loss, whose mean over workers is the global batch's mean loss.

    Weighting by the global count keeps uneven shares unbiased. A worker without a row (a last
    batch smaller than the world) takes part with weight zero.
    """
    mine = rank_share(rows, world.rank, world.size)
    weight = world.size / len(rows) if len(mine) else 0.0
    mine = mine if len(mine) else rows[:1]
    batch = Batch.of(split.texts, mine, split.pad_id, world.device)
    labels = torch.from_numpy(split.labels[mine]).to(world.device)
    return functional.cross_entropy(engine.forward(batch), labels, reduction="sum") * weight
