"""The training loop: the same for every method and engine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from adapt_ray import seeding
from adapt_ray.adaptation import Schedule
from adapt_ray.config import TrainingConfig
from adapt_ray.data.batches import Ints, epoch_batches, rank_share
from adapt_ray.modeling import TaskClassifier, to_device
from adapt_ray.training.checkpoint import Checkpoints
from adapt_ray.training.engine import Engine
from adapt_ray.training.evaluate import Scores
from adapt_ray.training.examples import Examples
from adapt_ray.training.focus import Focus, total_steps
from adapt_ray.training.world import World

_BEST = "best.safetensors"


class DivergedError(ArithmeticError):
    """The training loss became infinite or not a number."""


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve."""

    epoch: int  # from 1
    train_loss: float  # mean over the rows that the epoch trained on, weighted as in the gradient
    dev: Scores
    train_seconds: float
    evaluate_seconds: float
    tokens: int  # of the rows that it trained on


@dataclass
class Progress:
    """Where a run stands: with weights, optimizer and random states, all that it goes on from."""

    batches: int = 0  # done in the epoch under way
    loss_sum: float = 0.0  # over their examples
    seconds: float = 0.0  # of training them
    curve: list[Epoch] = field(default_factory=list)  # the epochs that are over

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Progress":
        """Return what ``dataclasses.asdict`` took apart, after a round trip through JSON."""
        curve = [Epoch(**{**point, "dev": _scores(point["dev"])}) for point in state["curve"]]
        return cls(**{**state, "curve": curve})


def _scores(state: dict[str, Any]) -> Scores:
    return Scores(**{**state, "per_class_f1": tuple(state["per_class_f1"])})


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the rate of a step (from 0): linear warm-up to the peak, then linear decay."""
    warm = round(config.warmup * steps)
    if step < warm:
        return config.peak_rate * (step + 1) / warm
    return config.peak_rate * (steps - step) / (steps - warm)


def kept_epoch(config: TrainingConfig, curve: Sequence[Epoch]) -> Epoch:
    """Return the epoch whose weights a run ends with: the last, or the first best with patience."""
    if config.patience is None:
        return curve[-1]
    return max(curve, key=lambda point: point.dev.macro_f1)


def train(
    model: TaskClassifier,
    engine: Engine,
    examples: Examples,
    config: TrainingConfig,
    seed: int,
    world: World,
    evaluate: Callable[[], Scores],
    checkpoints: Checkpoints | None = None,
    schedule: Schedule | None = None,
) -> list[Epoch]:
    """Train for ``config.epochs`` epochs or until patience ends, evaluating after each.

    Every method sees the same batches in the same order, because they are cut by base length (of
    the rows that its own losses lead to, where ``config.focus`` asks for fewer: :class:`Focus`). At
    the end the engine holds the weights of :func:`kept_epoch`. With ``checkpoints``, the run goes
    on where a killed one of the same setting was last saved, and reaches the same weights bit for
    bit. ``schedule`` is what the method itself changes on the way; a penalty of its is part of the
    loss. Raises DivergedError when the loss stops being finite.
    """
    return _Training(
        model, engine, examples, config, seed, world, evaluate, checkpoints, schedule
    ).run()


@dataclass
class _Training:
    model: TaskClassifier
    engine: Engine
    examples: Examples
    config: TrainingConfig
    seed: int
    world: World
    evaluate: Callable[[], Scores]
    checkpoints: Checkpoints | None
    schedule: Schedule | None

    def __post_init__(self) -> None:
        self._progress = Progress()
        self._best: dict[str, Tensor] = {}
        self._steps = total_steps(self.config, self.config.epochs, len(self.examples))
        self._focus = Focus(len(self.examples), self.world)
        self._order_seed = self.config.stream_seed("data_order", self.seed)

    def run(self) -> list[Epoch]:
        seed = self.config.stream_seed("dropout", self.seed)
        torch.manual_seed(seeding.derive(seed, "dropout", self.world.rank))
        self._resume()
        curve = self._progress.curve
        while not self._is_over():
            self._draw = self._focus.draw(self.config, self._order_seed, len(curve) + 1)
            rows = self._draw.rows
            self._train_epoch(rows)
            self._end_epoch(rows)
        if kept_epoch(self.config, curve) is not curve[-1]:
            self.engine.set_weights(self._best)
        return curve

    def _is_over(self) -> bool:
        curve = self._progress.curve
        if len(curve) == self.config.epochs:
            return True
        if self.config.patience is None or not curve:
            return False
        return len(curve) - kept_epoch(self.config, curve).epoch >= self.config.patience

    def _train_epoch(self, rows: Ints) -> None:
        """Train what is left of the epoch under way."""
        set_train_mode(self.model, self.config)
        self._started = time.perf_counter()
        epoch = len(self._progress.curve) + 1
        lengths = self.examples.texts.base_lengths[rows]
        batches = epoch_batches(lengths, self.config.batch_size, self._order_seed, epoch)
        for batch in batches[self._progress.batches :]:
            self._step(rows[batch])
        self._progress.seconds += time.perf_counter() - self._started

    def _end_epoch(self, rows: Ints) -> None:
        done = self._progress
        self._focus.end_epoch(rows)
        self.model.eval()
        started = time.perf_counter()
        dev = self.evaluate()
        seconds = time.perf_counter() - started
        epoch = len(done.curve) + 1
        loss = done.loss_sum / len(rows)
        tokens = int(self.examples.texts.lengths[rows].sum())
        point = Epoch(epoch, loss, dev, done.seconds, seconds, tokens)
        done.batches, done.loss_sum, done.seconds = 0, 0.0, 0.0
        done.curve.append(point)
        if self.config.patience is not None and kept_epoch(self.config, done.curve) is point:
            self._best = self.engine.weights()

    def _step(self, rows: Ints) -> None:
        done = self._progress
        before = total_steps(self.config, len(done.curve), len(self.examples))
        step = before + done.batches
        if self.schedule is not None and self.schedule.before_step(step):
            set_train_mode(self.model, self.config)
        value, save = self._agree(self._backward(rows))
        if not math.isfinite(value):
            raise DivergedError(f"loss is {value} at step {step + 1} of {self._steps}")
        then = partial(self.schedule.after_step, step) if self.schedule is not None else None
        self.engine.step(learning_rate(self.config, step, self._steps), then)
        done.loss_sum += value * len(rows)
        done.batches += 1
        if save:
            self._save(step + 1)

    def _backward(self, rows: Ints) -> Tensor:
        """Make the gradient of a global batch; return this worker's loss.

        The mean of both over workers is that of the batch: weighting by the global count keeps
        uneven shares unbiased. A worker without a row takes part with weight zero.
        """
        loss = torch.zeros((), device=self.world.device)
        parts = micro_batches(rows, self.config.accumulation, self.world)
        for number, part in enumerate(parts, start=1):
            weight = self.world.size / len(rows) if len(part) else 0.0
            mine = part if len(part) else rows[:1]
            batch = self.examples.batch(mine, self.world.device)
            labels = to_device(self.examples.labels[mine], self.world.device)
            last = number == len(parts)
            loss_of = partial(self._loss, rows=part, labels=labels, weight=weight, last=last)
            loss += self.engine.backward(batch, loss_of, last=last)
        return loss

    def _loss(
        self, logits: Tensor, rows: Ints, labels: Tensor, weight: float, last: bool
    ) -> Tensor:
        losses = functional.cross_entropy(logits, labels, reduction="none")
        if len(rows):
            self._focus.note(rows, losses)
            losses = losses * self._draw.weights[torch.from_numpy(rows)].to(losses.device)
        penalty = self.schedule.penalty() if self.schedule is not None and last else None
        return losses.sum() * weight + (0.0 if penalty is None else penalty)

    def _agree(self, loss: Tensor) -> tuple[float, bool]:
        """Return the global batch's mean loss, and whether the first worker's clock says save."""
        due = self.world.rank == 0 and self._is_due()
        told = self.world.total(torch.stack([loss, loss.new_tensor(float(due))]))
        value, save = told.tolist()
        return value / self.world.size, save > 0

    def _is_due(self) -> bool:
        every = self.config.checkpoint_seconds
        if self.checkpoints is None or every is None:
            return False
        return time.perf_counter() - self._saved_at >= every

    def _save(self, step: int) -> None:
        assert self.checkpoints is not None
        self._progress.seconds += time.perf_counter() - self._started
        self.checkpoints.save(step, self._write, asdict(self._progress))
        self._started = self._saved_at = time.perf_counter()

    def _write(self, folder: Path) -> None:
        self.engine.save(folder)
        state = _random_state(self.world.device) | self._focus.state()
        if self.schedule is not None:
            state |= self.schedule.state()
        save_file(state, folder / self._worker_file)
        if self._best and self.world.rank == 0:
            save_file(self._best, folder / _BEST)

    def _resume(self) -> None:
        self._saved_at = time.perf_counter()
        state = self.checkpoints.load(self._read) if self.checkpoints is not None else None
        if state is not None:
            self._progress = Progress.of(state)

    def _read(self, folder: Path) -> None:
        self.engine.load(folder)
        state = load_file(folder / self._worker_file)
        _set_random_state(state, self.world.device)
        self._focus.restore(state)
        if self.schedule is not None:
            self.schedule.restore(state)
        if (folder / _BEST).is_file():
            self._best = load_file(folder / _BEST)

    @property
    def _worker_file(self) -> str:
        return f"worker-{self.world.rank}.safetensors"


def set_train_mode(model: TaskClassifier, config: TrainingConfig) -> None:
    """Put a model into training mode; by option, not its blocks in which nothing trains.

    Blocks are the layers, and what of the backbone is around them (the embeddings). What such a
    block puts out is then the same for the same input, and needs no dropout mask.
    """
    model.train()
    if config.frozen_blocks == "train":
        return
    around = model.family.layers.partition(".")[0]
    outer = [block for name, block in model.backbone.named_children() if name != around]
    for block in [*model.layers, *outer]:
        block.train(any(parameter.requires_grad for parameter in block.parameters()))


def micro_batches(rows: Ints, accumulation: int, world: World) -> list[Ints]:
    """Cut this worker's share of a global batch into parts, as many on every worker.

    A part is empty where another worker's share is one row longer.
    """
    largest_share = -(-len(rows) // world.size)
    return np.array_split(
        rank_share(rows, world.rank, world.size), min(accumulation, largest_share)
    )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
