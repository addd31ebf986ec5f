"""How much each searched field decides whether a configuration is among the best.

PED-ANOVA (Watanabe et al. 2023, Optuna's implementation) compares the density of a field's values
among the best configurations with that among all. A dozen configurations give every field some
importance by chance, so that the same is computed of shuffled scores.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from adapt_ray.report.drawing import is_logarithmic, is_number
from adapt_ray.report.groups import Configuration

FEWEST = 10  # configurations of which importances are computed
BEST = 5  # PED-ANOVA's authors want at least so many among the best
_QUANTILE = 0.1  # of the configurations that count as the best, where that is more
_SHUFFLES = 100
_CHANCE = 0.95


@dataclass(frozen=True)
class Importance:
    """A searched field: its share of all fields' importance, and what chance gives it.

    ``by_chance`` is the 95% quantile over shuffled scores, in the unit of ``share``.
    """

    name: str
    share: float
    by_chance: float


def importances(configurations: Sequence[Configuration]) -> list[Importance]:
    """Return the fields of one contender's search, the most important first.

    Empty below FEWEST configurations with a score, and where all fields come out as nothing. Those
    that the race dropped count with the mean of the seeds they ran.
    """
    judged = [found for found in configurations if found.estimate.mean is not None]
    names = list(dict.fromkeys(name for found in judged for name in found.settings))
    if len(judged) < FEWEST or not names:
        return []
    study = _study(judged, names)
    scores = np.array([found.estimate.mean for found in judged])
    raw = _evaluate(study, scores)
    total = sum(raw.values())
    if not total > 0:
        return []
    rng = np.random.default_rng(0)
    shuffled = [_evaluate(study, rng.permutation(scores)) for _ in range(_SHUFFLES)]
    found = [
        Importance(
            name,
            raw[name] / total,
            float(np.quantile([one[name] for one in shuffled], _CHANCE)) / total,
        )
        for name in raw
    ]
    return sorted(found, key=lambda one: -one.share)


def _study(configurations: Sequence[Configuration], names: Sequence[str]) -> optuna.Study:
    distributions = {
        name: _distribution([f.settings[name] for f in configurations if name in f.settings])
        for name in names
    }
    trials = []
    for found in configurations:
        here = {name: distributions[name] for name in names if name in found.settings}
        params = {name: _value(found.settings[name], here[name]) for name in here}
        trials.append(optuna.trial.create_trial(value=0.0, params=params, distributions=here))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(trials)
    return study


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    if not all(map(is_number, values)):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    return FloatDistribution(min(values), max(values), log=is_logarithmic(values))


def _value(value: Any, distribution: BaseDistribution) -> float | str:
    return str(value) if isinstance(distribution, CategoricalDistribution) else float(value)


def _evaluate(study: optuna.Study, scores: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return PED-ANOVA's divergence of each field, the scores being those of the trials in turn."""
    quantile = max(_QUANTILE, BEST / len(scores))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")  # lower is better
        return evaluator.evaluate(study, target=lambda trial: -float(scores[trial.number]))
