"""Which rows go together: batches for training, their shares on each worker, and inference."""

import numpy as np
import numpy.typing as npt

from adapt_ray import seeding

Ints = npt.NDArray[np.int64]

_WINDOW = 50  # batches that are sorted by length together: little padding, still much shuffling


def epoch_batches(lengths: Ints, batch_size: int, seed: int, epoch: int) -> list[Ints]:
    """Cut all rows into batches of ``batch_size`` that hold texts of similar length.

    Every row occurs exactly once; the last batch holds what is left over. ``lengths`` [n] are those
    of the base tokens, so that every method, whatever it inserts, sees the same order for a seed.
    """
    rng = seeding.generator(seed, "data_order", epoch)
    order = rng.permutation(len(lengths)).astype(np.int64)
    # The rest is set aside before sorting: it would always be the longest texts otherwise.
    full, rest = np.split(order, [len(order) - len(order) % batch_size])
    batches: list[Ints] = []
    for start in range(0, len(full), _WINDOW * batch_size):
        window = full[start : start + _WINDOW * batch_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches.extend(window.reshape(-1, batch_size))
    batches = [batches[i] for i in rng.permutation(len(batches))]
    return [*batches, rest] if len(rest) else batches


def rank_share(batch: Ints, rank: int, world: int) -> Ints:
    """Return one worker's rows of a global batch; shares differ by at most one row.

    Strided, because a batch is sorted by length and every worker should pad alike. A batch smaller
    than the world leaves some shares empty: the training loop then lets that worker compute on
    another row with weight zero, so that all workers take the same steps.
    """
    return batch[rank::world]


def evaluation_batches(lengths: Ints, token_budget: int) -> list[Ints]:
    """Cut all rows into batches whose rows times longest text stay within ``token_budget``.

    Longest texts first, so that a lack of memory shows at once. A text longer than the budget is
    a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches
