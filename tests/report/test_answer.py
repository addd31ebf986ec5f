"""Sentences of the answer that the whole report does not already show in its own tests."""

from typing import TYPE_CHECKING

import numpy as np

from adapt_ray.report import groups
from adapt_ray.report.answer import answer, limits

if TYPE_CHECKING:
    from tests.report.conftest import Made


def test_stages_of_their_own_stand_beside_shared_ones(made: "type[Made]") -> None:
    runs = made.final_runs({"full": 0.70, "adapt": 0.80}, token_set_digest="t")
    scores = 0.9 + 0.05 * np.random.default_rng(1).normal(size=10)
    runs += [
        made.run("adapt (own stages)", 100 + i, configuration_id=f"c{i}", test_macro_f1=float(f1))
        for i, f1 in enumerate(scores)
    ]
    (study,) = groups.studies(runs)
    said = answer(study)
    assert said[0].startswith("**adapt** has the best mean")
    assert not any("own stages" in one for one in said[1:3])
    (own,) = [one for one in said if "computed anew for every seed" in one]
    assert f"scores 0.{1000 * scores.mean():.0f} ± {scores.std(ddof=1):.3f}" in own
    assert "variance ratio adapt (own stages) / adapt" in own
    assert any(one.startswith("All runs share one token set") for one in limits(study))
    (alone,) = groups.studies(run for run in runs if "own" not in run.contender)
    assert any(one.startswith("Runs share one token set, one") for one in limits(alone))
