import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.data.batches import epoch_batches, evaluation_batches, rank_share

Ints = npt.NDArray[np.int64]


def lengths_of(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


lengths_lists = st.lists(st.integers(1, 300), max_size=400).map(lambda v: lengths_of(*v))


def flat(batches: list[Ints]) -> list[int]:
    return [int(row) for batch in batches for row in batch]


@given(lengths_lists, st.integers(1, 40), st.integers(0, 5), st.integers(1, 3))
def test_an_epoch_holds_every_row_once_in_full_batches(
    lengths: Ints, size: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(lengths, size, seed, epoch)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_order_repeats_for_a_seed_and_differs_between_seeds_and_epochs() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 500)
    first = flat(epoch_batches(lengths, 16, 3, 1))
    assert first == flat(epoch_batches(lengths, 16, 3, 1))
    assert first != flat(epoch_batches(lengths, 16, 4, 1))
    assert first != flat(epoch_batches(lengths, 16, 3, 2))


def test_buckets_leave_little_padding_without_ordering_the_epoch_by_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 4000)
    batches = epoch_batches(lengths, 16, 0, 1)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.05 * lengths.sum()
    means = np.array([lengths[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_of_a_batch_are_even_and_complete(rows: int, world: int) -> None:
    batch = np.arange(100, 100 + rows)
    shares = [rank_share(batch, rank, world) for rank in range(world)]
    assert sorted(flat(shares)) == batch.tolist()
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@given(lengths_lists, st.integers(1, 500))
def test_evaluation_batches_stay_within_the_token_budget(lengths: Ints, budget: int) -> None:
    batches = evaluation_batches(lengths, budget)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    in_order = lengths[np.array(flat(batches), dtype=np.int64)]
    assert in_order.tolist() == sorted(lengths.tolist(), reverse=True)
