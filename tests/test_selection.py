import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adapt_ray.errors import InputError
from adapt_ray.modeling import ModuleInfo
from adapt_ray.selection import Selection, normalise, select, sensitivity
from adapt_ray.sensitivity.measure import SensitivityMap


def map_of(sizes: list[int], d: list[float], g: list[float], original: int) -> SensitivityMap:
    modules = tuple(ModuleInfo(f"m{i}", i, "query", size) for i, size in enumerate(sizes))
    return SensitivityMap(modules, tuple(d), tuple(g), original)


SIMPLE = map_of([10, 20, 30, 40], [4.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.3, 0.4], 200)


def test_normalisations_against_their_definitions() -> None:
    values = np.array([3.0, 1.0, 3.0, 10.0])
    np.testing.assert_allclose(normalise(values, "rank"), [0.625, 0.25, 0.625, 1.0])
    np.testing.assert_allclose(normalise(values, "minmax"), [2 / 9, 0, 2 / 9, 1])
    np.testing.assert_allclose(normalise(values, "zscore"), stats.zscore(values))
    np.testing.assert_array_equal(normalise(values, "none"), values)
    for how in ("minmax", "zscore"):
        np.testing.assert_array_equal(normalise(np.full(3, 7.0), how), np.zeros(3))


def test_alpha_is_the_weight_of_dispersion() -> None:
    np.testing.assert_allclose(sensitivity(SIMPLE, 1.0, "none"), SIMPLE.dispersion)
    np.testing.assert_allclose(sensitivity(SIMPLE, 0.0, "none"), SIMPLE.gradient)
    mixed = sensitivity(SIMPLE, 0.25, "none")
    np.testing.assert_allclose(mixed, [0.25 * 4 + 0.75 * 0.1, 0.9, 0.725, 0.55])


def test_the_most_sensitive_modules_fill_the_budget_and_what_does_not_fit_is_skipped() -> None:
    by_dispersion = select(SIMPLE, alpha=1.0, sparsity=0.25, normalisation="rank")  # 50 of 200
    assert by_dispersion == Selection(("m0", "m1"), 30, 0.15)
    by_gradient = select(SIMPLE, alpha=0.0, sparsity=0.25, normalisation="rank")
    assert by_gradient == Selection(("m0", "m3"), 50, 0.25)


def test_ties_go_to_the_lower_layer() -> None:
    tied = map_of([10] * 4, [1.0] * 4, [1.0] * 4, 100)
    assert select(tied, alpha=0.3, sparsity=0.2, normalisation="rank").modules == ("m0", "m1")


def test_a_share_of_one_takes_everything() -> None:
    everything = select(SIMPLE, alpha=0.5, sparsity=1.0, normalisation="rank")
    assert everything == Selection(("m0", "m1", "m2", "m3"), 200, 1.0)


def test_more_than_the_modules_hold_is_an_error_that_names_the_largest_share() -> None:
    with pytest.raises(InputError, match=r"sparsity is 0.6, .*0.500 .*give at most 0.5"):
        select(SIMPLE, alpha=0.5, sparsity=0.6, normalisation="rank")


def test_a_budget_too_small_for_any_module_is_an_error() -> None:
    with pytest.raises(InputError, match="2 parameters; the smallest module has 10"):
        select(SIMPLE, alpha=0.5, sparsity=0.01, normalisation="rank")


MAPS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 100), min_size=n, max_size=n),
        st.lists(st.floats(0, 1e3), min_size=n, max_size=n),
        st.lists(st.floats(0, 1e3), min_size=n, max_size=n),
    )
)


@given(MAPS, st.floats(0, 1), st.floats(0.05, 1))
def test_the_budget_holds_and_no_skipped_module_would_have_fitted(
    columns: tuple[list[int], list[float], list[float]], alpha: float, part: float
) -> None:
    sizes, d, g = columns
    measured = map_of(sizes, d, g, original=2 * sum(sizes))
    budget = math.floor(part / 2 * measured.original_parameters)
    if budget < min(sizes):
        return
    chosen = select(measured, alpha=alpha, sparsity=part / 2, normalisation="rank")
    assert chosen.parameters <= budget
    assert chosen.parameters == sum(sizes[int(name[1:])] for name in chosen.modules)
    assert chosen == select(measured, alpha=alpha, sparsity=part / 2, normalisation="rank")
    scores = sensitivity(measured, alpha, "rank")
    used = 0
    for index in sorted(range(len(sizes)), key=lambda i: (-scores[i], i)):
        fits = used + sizes[index] <= budget
        assert (f"m{index}" in chosen.modules) == fits
        used += sizes[index] if fits else 0


def test_round_trip(tmp_path: Path) -> None:
    selection = select(SIMPLE, alpha=0.5, sparsity=0.3, normalisation="zscore")
    selection.save(tmp_path)
    assert Selection.load(tmp_path) == selection
    SIMPLE.save(tmp_path)
    assert SensitivityMap.load(tmp_path) == SIMPLE
