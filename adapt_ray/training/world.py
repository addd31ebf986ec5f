"""The workers of one run, as far as the core must know them."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This worker's rank among ``size``, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls) -> "World":
        """Return the world of the initialised process group, or one worker alone."""
        device = default_device()
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all workers."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in rank order, on every worker."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values


def default_device() -> torch.device:
    """Return the GPU that this process was given, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
