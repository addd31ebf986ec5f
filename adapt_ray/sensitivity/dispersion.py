"""Index of dispersion of a module's outputs, streamed and mergeable (paper section 3.2)."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass
class Moments:
    """Count, mean and sum of squared deviations per output element.

    A batch is reduced in its own precision (stably), batches are accumulated in float64. Batches
    and workers merge exactly (Chan et al. 1979), so the result does not depend on how the inputs
    were cut, beyond rounding.
    """

    count: int
    mean: Tensor  # float64 [elements]
    m2: Tensor  # float64 [elements]

    @classmethod
    def of(cls, outputs: Tensor) -> Self:
        """Return the moments of outputs [n, elements]; n >= 1."""
        variance, mean = torch.var_mean(outputs.detach(), dim=0, correction=0)
        return cls(len(outputs), mean.double(), variance.double() * len(outputs))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of outputs together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / count)
        return Moments(count, mean, m2)

    def dispersion(self) -> float:
        """Return mean over elements of Var(o) / mean over elements of |E(o)|.

        The ratio of means: the mean of per-element ratios is dominated by elements whose mean is
        close to zero, and hardly repeats on another half of the data.
        """
        variance = (self.m2 / self.count).mean()
        return float(variance / self.mean.abs().mean().clamp(min=torch.finfo(torch.float64).tiny))
