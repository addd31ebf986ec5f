from typing import Any

import numpy as np
import pytest
from scipy import stats

from adapt_ray.config import AdaptConfig
from adapt_ray.modeling import ModuleInfo
from adapt_ray.selection.scores import normalise, scores, sensitivity
from adapt_ray.sensitivity.measure import SensitivityMap

KINDS = ("query", "ffn_up", "query", "ffn_up")
SIMPLE = SensitivityMap(
    modules=tuple(ModuleInfo(f"m{i}", i, kind, 4 + 5 * i, 1) for i, kind in enumerate(KINDS)),
    dispersion=(4.0, 3.0, 2.0, 1.0),
    gradient=(0.1, 0.2, 0.3, 0.4),
    fisher=(1.0, 3.0, 2.0, 4.0),
    magnitude=(9.0, 1.0, 2.0, 3.0),
    original_parameters=200,
    width=8,
    attended=20.0,
)


def by(how: str = "none", **changes: Any) -> AdaptConfig:
    return AdaptConfig(normalisation=how, **changes)


def test_normalisations_against_their_definitions() -> None:
    values = np.array([3.0, 1.0, 3.0, 10.0])
    np.testing.assert_allclose(normalise(values, "rank"), [0.625, 0.25, 0.625, 1.0])
    np.testing.assert_allclose(normalise(values, "minmax"), [2 / 9, 0, 2 / 9, 1])
    np.testing.assert_allclose(normalise(values, "zscore"), stats.zscore(values))
    np.testing.assert_array_equal(normalise(values, "none"), values)
    for how in ("minmax", "zscore"):
        np.testing.assert_array_equal(normalise(np.full(3, 7.0), how), np.zeros(3))


def test_alpha_is_the_weight_of_dispersion() -> None:
    np.testing.assert_allclose(sensitivity(SIMPLE, by(alpha=1.0)), SIMPLE.dispersion)
    np.testing.assert_allclose(sensitivity(SIMPLE, by(alpha=0.0)), SIMPLE.gradient)
    mixed = sensitivity(SIMPLE, by(alpha=0.25))
    np.testing.assert_allclose(mixed, [0.25 * 4 + 0.75 * 0.1, 0.9, 0.725, 0.55])


def test_gradients_per_root_of_the_parameter_count() -> None:
    found = sensitivity(SIMPLE, by(alpha=0.0, gradient_scale="per_sqrt_parameter"))
    np.testing.assert_allclose(found, np.array(SIMPLE.gradient) / np.sqrt([4, 9, 14, 19]))


@pytest.mark.parametrize("how", ["rank", "minmax", "zscore"])
def test_normalised_within_kinds_every_kind_stands_for_itself(how: str) -> None:
    found = sensitivity(SIMPLE, by(how, alpha=1.0, normalise_within="kind"))
    high, low = {"rank": (1, 0.5), "minmax": (1, 0), "zscore": (1, -1)}[how]
    np.testing.assert_allclose(found, [high, high, low, low])


def test_controls_put_their_own_measure_in_sensitivitys_place() -> None:
    np.testing.assert_allclose(scores(SIMPLE, by(score="fisher")), SIMPLE.fisher)
    np.testing.assert_allclose(scores(SIMPLE, by(score="magnitude")), SIMPLE.magnitude)
    ranks = scores(SIMPLE, by("rank", score="magnitude"))
    np.testing.assert_allclose(ranks, [1.0, 0.25, 0.5, 0.75])
    method = by(alpha=0.3)
    np.testing.assert_array_equal(scores(SIMPLE, method), sensitivity(SIMPLE, method))


def test_random_scores_repeat_and_differ_by_seed() -> None:
    first, again, other = (
        scores(SIMPLE, by(score="random", selection_seed=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
