"""Trade-offs: which outcomes no other one beats in everything."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pareto_front(points: Sequence[Sequence[float]] | npt.NDArray[np.float64]) -> list[int]:
    """Return the indices, ascending, of the points that no other point dominates.

    A point [score, *costs] dominates another that scores no more and costs no less in everything,
    and differs in something; equal points stay together. Raises ValueError for a NaN: it is
    neither more nor less than anything.
    """
    values = np.asarray(points, np.float64)
    if not len(values):
        return []
    if np.isnan(values).any():
        raise ValueError("pareto_front: a point with a NaN can be compared with no other")
    losses = np.column_stack([-values[:, 0], values[:, 1:]])
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(2)  # [dominating, dominated]
    better = (losses[:, None, :] < losses[None, :, :]).any(2)
    return np.flatnonzero(~(no_worse & better).any(0)).tolist()
