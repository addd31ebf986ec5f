"""How much each module of a sensitivity map counts, by the paper's measure or by a control's."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from adapt_ray import seeding
from adapt_ray.config import AdaptConfig
from adapt_ray.sensitivity.measure import SensitivityMap

Normalisation = Literal["rank", "minmax", "zscore", "none"]
Floats = npt.NDArray[np.float64]


def normalise(values: Floats, how: Normalisation) -> Floats:
    """Make a measure comparable with another; equal values stay equal.

    ``rank`` gives average ranks scaled to (0, 1]; ``minmax`` and ``zscore`` give zeros where all
    values are equal; ``none`` leaves a mixture in which the larger unit decides whatever alpha is.
    """
    if how == "rank":
        from scipy import stats  # a second, which workers that never rank would pay for

        return np.asarray(stats.rankdata(values) / len(values), dtype=np.float64)
    if how == "none":
        return values
    centred = values - (values.min() if how == "minmax" else values.mean())
    scale = np.ptp(values) if how == "minmax" else values.std()
    return centred / scale if scale > 0 else np.zeros_like(values)


def sensitivity(measured: SensitivityMap, method: AdaptConfig) -> Floats:
    """Return S = alpha norm(D) + (1 - alpha) norm(G) per module, in the map's order.

    The method says which norm, over which modules, and whether G is the gradient's norm or, with
    ``per_sqrt_parameter``, the root mean square of its elements.
    """
    gradient = np.array(measured.gradient)
    if method.gradient_scale == "per_sqrt_parameter":
        gradient = gradient / np.sqrt([module.parameters for module in measured.modules])
    mixed = method.alpha * _normalised(np.array(measured.dispersion), measured, method)
    return mixed + (1 - method.alpha) * _normalised(gradient, measured, method)


def scores(measured: SensitivityMap, method: AdaptConfig) -> Floats:
    """Return what modules are selected by: sensitivity, or what a control puts in its place.

    Fisher information and magnitude are normalised as D and G are. ``type_matched`` starts from
    sensitivity.
    """
    if method.score == "fisher":
        return _normalised(np.array(measured.fisher), measured, method)
    if method.score == "magnitude":
        return _normalised(np.array(measured.magnitude), measured, method)
    if method.score == "random":
        return generator(method).random(len(measured.modules))
    return sensitivity(measured, method)


def generator(method: AdaptConfig) -> np.random.Generator:
    """Return the random numbers of a control selection."""
    return seeding.generator(method.selection_seed, "selection")


def _normalised(values: Floats, measured: SensitivityMap, method: AdaptConfig) -> Floats:
    if method.normalise_within == "model":
        return normalise(values, method.normalisation)
    kinds = np.array([module.kind for module in measured.modules])
    normalised = np.empty_like(values)
    for kind in np.unique(kinds):
        normalised[kinds == kind] = normalise(values[kinds == kind], method.normalisation)
    return normalised
