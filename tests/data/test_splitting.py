import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.data.splitting import hold_out, oversample, quotas

Ints = npt.NDArray[np.int64]


def array(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


labels_lists = st.lists(st.integers(0, 4), min_size=2, max_size=80).map(array)
# At least two rows a class and at most half drawn: no class is too small for its share.
class_counts = st.lists(st.integers(2, 40), min_size=2, max_size=5)


def labels_with(counts: list[int], seed: int) -> Ints:
    rows = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(rows)


@given(class_counts, st.floats(0, 0.5), st.integers(0, 9))
def test_single_rows_are_drawn_at_the_exact_size_and_class_shares(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels = labels_with(counts, seed)
    size = int(fraction * len(labels))
    drawn = hold_out(labels, np.arange(len(labels)), size, np.random.default_rng(seed))
    assert drawn.sum() == size
    for label, count in enumerate(counts):
        exact = count * size / len(labels)
        assert abs(drawn[labels == label].sum() - exact) <= 1


@given(st.data(), labels_lists, st.integers(0, 9))
def test_no_group_is_cut_and_every_class_keeps_a_row(
    data: st.DataObject, labels: Ints, seed: int
) -> None:
    groups = array(
        data.draw(st.lists(st.integers(0, 60), min_size=len(labels), max_size=len(labels)))
    )
    size = data.draw(st.integers(0, len(labels)))
    drawn = hold_out(labels, groups, size, np.random.default_rng(seed))
    assert drawn.sum() <= size
    assert not set(groups[drawn]) & set(groups[~drawn])
    assert set(labels[~drawn]) == set(labels)


def test_groups_of_several_rows_still_give_size_and_shares() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(600), rng.integers(1, 5, 600))
    labels = rng.choice(4, len(groups), p=[0.5, 0.3, 0.15, 0.05])
    drawn = hold_out(labels, groups, 300, rng)
    assert drawn.sum() == 300
    shares = np.bincount(labels[drawn]) / 300
    assert shares == pytest.approx(np.bincount(labels) / len(labels), abs=0.02)


def test_a_draw_repeats_for_a_seed_and_differs_between_seeds() -> None:
    labels = labels_with([50, 50], 0)
    rows = np.arange(100)
    first, again, other = (
        hold_out(labels, rows, 30, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_quotas_use_largest_remainders() -> None:
    assert quotas(array([50, 30, 20]), 11).tolist() == [6, 3, 2]  # 5.5, 3.3, 2.2
    assert quotas(array([9, 1]), 8).tolist() == [8, 0]  # the only row of a class stays behind


@given(labels_lists, st.integers(0, 60), st.integers(0, 9))
def test_oversampling_repeats_small_classes_evenly(labels: Ints, least: int, seed: int) -> None:
    rows = oversample(labels, least, np.random.default_rng(seed))
    assert rows[: len(labels)].tolist() == list(range(len(labels)))
    for label in set(labels.tolist()):
        count = (labels == label).sum()
        assert (labels[rows] == label).sum() == max(count, least)
        repeats = np.bincount(rows, minlength=len(labels))[labels == label]
        assert repeats.max() - repeats.min() <= 1
    assert rows.tolist() == oversample(labels, least, np.random.default_rng(seed)).tolist()
