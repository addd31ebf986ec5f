"""Importance of searched fields: planted ones, none, and Optuna's own figures."""

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest

from adapt_ray.report import groups
from adapt_ray.report.groups import Configuration
from adapt_ray.report.importance import BEST, FEWEST, importances

if TYPE_CHECKING:
    from tests.report.conftest import Made


def searched(
    made: "type[Made]", count: int, score: Any, seed: int = 0, names: str = ""
) -> list[Configuration]:
    """Return configurations with drawn values and score(rate, alpha) of one seed each."""
    rng = np.random.default_rng(seed)
    runs = []
    for number in range(count):
        rate, alpha = float(10 ** rng.uniform(-5, -3)), float(rng.uniform(0.2, 1))
        values: dict[str, Any] = {"training.learning_rate": rate, "method.alpha": alpha}
        if names:
            values["model.x"] = names[number % len(names)]
        f1 = float(score(np.log10(rate), alpha))
        runs.append(made.run(phase="search", seed=0, settings=values, dev_macro_f1=f1))
    return groups.configurations(runs)


def test_a_field_that_decides_alone_stands_out(made: "type[Made]") -> None:
    found = importances(searched(made, 40, lambda rate, alpha: 0.8 - 0.1 * abs(rate + 4)))
    assert [one.name for one in found] == ["training.learning_rate", "method.alpha"]
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].share > found[0].by_chance
    assert found[1].share < found[1].by_chance


def test_scores_without_a_reason_pass_the_mark_rarely(made: "type[Made]") -> None:
    """The mark is the 95% quantile of shuffled scores."""
    rng = np.random.default_rng(1)
    passed = 0
    for seed in range(5):
        found = importances(searched(made, 15, lambda *_: rng.normal(), seed))
        passed += sum(one.share > one.by_chance for one in found)
    assert passed <= 3  # a binomial of 10 at 0.05 is above 3 in 0.1% of cases


def test_only_the_order_of_scores_counts(made: "type[Made]") -> None:
    one = importances(searched(made, 12, lambda rate, alpha: alpha - rate))
    assert importances(searched(made, 12, lambda rate, alpha: (10 + alpha - rate) ** 3)) == one


def test_shares_are_those_that_optuna_gives(made: "type[Made]") -> None:
    found = searched(made, 20, lambda rate, alpha: np.sin(7 * rate) + alpha, names="abc")
    rates = [one.settings["training.learning_rate"] for one in found]
    alphas = [one.settings["method.alpha"] for one in found]
    distributions: dict[str, Any] = {
        "training.learning_rate": optuna.distributions.FloatDistribution(
            min(rates), max(rates), log=True
        ),
        "method.alpha": optuna.distributions.FloatDistribution(min(alphas), max(alphas)),
        "model.x": optuna.distributions.CategoricalDistribution(("a", "b", "c")),
    }
    study = optuna.create_study()  # it minimises
    for one in found:
        score = one.estimate.mean
        assert score is not None
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(one.settings), distributions=distributions, value=-score
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST / 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert {one.name: one.share for one in importances(found)} == pytest.approx(expected)


def test_too_few_configurations_or_none_with_a_score(made: "type[Made]") -> None:
    found = searched(made, FEWEST, lambda rate, alpha: alpha)
    assert importances(found) != []
    assert importances(found[1:]) == []
    unscored = [
        dataclasses.replace(one, runs=(made.run(phase="search", dev_macro_f1=None),))
        for one in found
    ]
    assert importances(unscored) == []
    assert importances([]) == []


def test_fields_that_only_some_have(made: "type[Made]") -> None:
    found = searched(made, 20, lambda rate, alpha: alpha)
    some = [
        dataclasses.replace(one, settings={**one.settings, "method.rank": 4.0 * number})
        if number % 2
        else one
        for number, one in enumerate(found)
    ]
    assert {one.name for one in importances(some)} == {
        "training.learning_rate",
        "method.alpha",
        "method.rank",
    }
