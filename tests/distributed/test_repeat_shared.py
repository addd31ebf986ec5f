"""Which plans run once more with stages of their own, and how; no Ray is started here."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt_ray.config import AdaptConfig, FullConfig, StabilityJob
from adapt_ray.distributed import compare
from adapt_ray.distributed.compare import Comparison
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.sweep import Runs
from adapt_ray.training.run import RunPlan

PlanFor = Callable[..., RunPlan]
SEEDS = (100, 101)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    job = StabilityJob(storage=str(tmp_path))
    return Comparison(job, Session(job.resources), find_only=True)


def test_the_best_plan_that_shares_stages_runs_with_a_seed_for_each(
    comparison: Comparison, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    ran: list[tuple[str, list[int]]] = []

    def run_plan(*arguments: Any, **named: Any) -> RunPlan:
        made.append({"contender": arguments[0], "head_seed": arguments[3].head_seed, **named})
        return dataclasses.replace(plans[1], contender=arguments[0])

    def judged(_: str, runs: Runs) -> float:
        return {"full": 0.9, "adapt": 0.8, "worse": 0.7}[runs.plan.contender]

    plans = [plan_for(FullConfig()), plan_for(AdaptConfig(task_tokens=False))]
    plans.append(dataclasses.replace(plans[1], contender="worse"))
    monkeypatch.setattr(comparison.chain, "run_plan", run_plan)
    monkeypatch.setattr(compare, "_judged", judged)
    monkeypatch.setattr(
        comparison,
        "run",
        lambda found, stage: ran.extend((one.plan.contender, list(one.seeds)) for one in found),
    )
    own = comparison.repeat_shared(plans, SEEDS)
    assert [list(runs.seeds) for runs in own] == [[100], [101]]
    assert ran == [("adapt (own stages)", [100]), ("adapt (own stages)", [101])]
    assert [one["head_seed"] for one in made] == [100, 101]
    assert [one["warm_up_seed"] for one in made] == [100, 101]
    assert {one["contender"] for one in made} == {"adapt (own stages)"}
    assert all(one["test"] == plans[1].test for one in made)


def test_seeds_that_share_nothing_are_not_repeated(
    comparison: Comparison, plan_for: PlanFor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert comparison.repeat_shared([plan_for(FullConfig())], SEEDS) == []
    assert "nothing to repeat" in capsys.readouterr().out
