from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.sensitivity.dispersion import Moments


def test_dispersion_is_the_ratio_of_mean_variance_to_mean_absolute_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 8))
    expected = values.var(axis=0).mean() / np.abs(values.mean(axis=0)).mean()
    assert Moments.of(torch.from_numpy(values)).dispersion() == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_merging_parts_equals_the_whole(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(rng.normal(0, 100), 1.0, size=(n, 5)) for n in sizes]
    merged = reduce(Moments.merge, [Moments.of(torch.from_numpy(part)) for part in parts])
    whole = np.concatenate(parts)
    assert merged.count == len(whole)
    np.testing.assert_allclose(merged.mean.numpy(), whole.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(merged.m2.numpy() / len(whole), whole.var(0), rtol=1e-8, atol=1e-9)


def test_large_offsets_do_not_cancel() -> None:
    """Sums of squares would lose every digit here; streamed deviations do not."""
    values = torch.tensor([[1e8], [1e8 + 1], [1e8 + 2]], dtype=torch.float64)
    merged = reduce(Moments.merge, [Moments.of(row[None]) for row in values])
    assert float(merged.m2) == pytest.approx(2.0, rel=1e-6)
