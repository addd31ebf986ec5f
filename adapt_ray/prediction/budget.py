"""How many tokens a batch should hold: found by trying, on the first texts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt_ray.data.batches import evaluation_batches
from adapt_ray.export import Classifier
from adapt_ray.measures import PeakMemory

LEAST = 512  # tokens of the smallest batch that is tried
_MOST = 2**20
_GAIN = 1.05  # a doubling pays that makes this many times as many tokens a second
_PATIENCE = 2  # doublings in a row that may fail to pay: one alone is often noise
_SAMPLE = 2048  # texts
_SECONDS = 0.5  # of computing that one trial takes, about
_MEMORY_SHARE = 0.5  # of the memory that is free, most that a batch may take


@dataclass(frozen=True)
class Choice:
    """A token budget, and the speeds that led to it."""

    budget: int
    trials: tuple[tuple[int, float], ...]  # budget, tokens a second

    @property
    def tokens_per_second(self) -> float:
        """The speed at the budget, 0 where nothing was measured."""
        return dict(self.trials).get(self.budget, 0.0)


def search(measure: Callable[[int], float | None], most: int = _MOST) -> Choice:
    """Double the budget while that pays, and return the smallest that is nearly the fastest.

    ``measure`` gives the tokens a second of a budget, or None where memory does not suffice; no
    budget beyond ``most`` is tried.
    """
    trials: list[tuple[int, float]] = []
    budget, fastest, idle = LEAST, 0.0, 0
    while idle < _PATIENCE and (budget <= most or not trials):
        speed = measure(budget)
        if speed is None:
            break
        trials.append((budget, speed))
        idle = 0 if speed > _GAIN * fastest else idle + 1
        fastest = max(fastest, speed)
        budget *= 2
    near = (tried for tried, speed in trials if _GAIN * speed >= fastest)
    return Choice(next(near, LEAST), tuple(trials))


def fastest_budget(classifier: Classifier, texts: Sequence[str]) -> Choice:
    """Return the token budget with which a classifier is fastest on texts like the first ones."""
    sample = _Sample(classifier, texts[:_SAMPLE])
    return search(sample.tokens_per_second, min(_MOST, sample.tokens))


class _Sample:
    """Encoded texts of which batches are timed."""

    def __init__(self, classifier: Classifier, texts: Sequence[str]) -> None:
        self._classifier = classifier
        self._encoded = classifier.tokenizer.encode_texts(texts)
        self._device = classifier.model.head.weight.device
        self._bytes_per_token = 0.0
        self.tokens = int(self._encoded.lengths.sum())
        classifier.batch_logits(self._encoded, np.arange(1))  # the first batch sets much up

    def tokens_per_second(self, budget: int) -> float | None:
        """Time batches of long, middling and short texts; None where memory does not suffice."""
        if self._device.type == "cpu" and not self._fits(budget):
            return None
        batches = evaluation_batches(self._encoded.lengths, budget)
        memory = PeakMemory(self._device)
        before = memory.bytes()
        computed, started = 0, time.perf_counter()
        try:
            for place in np.random.default_rng(0).permutation(len(batches)):
                self._classifier.batch_logits(self._encoded, batches[place])
                computed += int(self._encoded.lengths[batches[place]].sum())
                if time.perf_counter() - started > _SECONDS:
                    break
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        speed = computed / (time.perf_counter() - started)
        taken = (memory.bytes() - before) / budget
        self._bytes_per_token = max(self._bytes_per_token, taken)
        return speed

    def _fits(self, budget: int) -> bool:
        return self._bytes_per_token * budget <= _MEMORY_SHARE * _free_bytes()


def _free_bytes() -> float:
    """Return the memory that this machine, or the container's limit, has left; or no bound."""
    free = float("inf")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = next((1024.0 * int(line[1]) for line in lines if line[0] == "MemAvailable:"), free)
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, float(limit.read_text()) - float(used.read_text()))
    return free
