"""Recipes of a sweep's winners: the run that they describe is the one on record."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapt_ray.config import (
    AdaptConfig,
    FinetuneJob,
    FullStableConfig,
    MethodConfig,
    SweepJob,
    parse,
)
from adapt_ray.contenders import resolved
from adapt_ray.distributed.winner import write_recipes
from adapt_ray.training.run import RunPlan

PlanFor = Callable[..., RunPlan]


@pytest.mark.parametrize("method", [AdaptConfig(alpha=0.3, sparsity=0.01), FullStableConfig()])
def test_the_printed_command_is_the_run_on_record(
    plan_for: PlanFor, tmp_path: Path, method: MethodConfig
) -> None:
    plan = plan_for(method, test=True, learning_rate=3e-4)
    job = SweepJob(storage=str(tmp_path / "runs"), model=plan.model)
    commands = write_recipes(job, [plan], 100, str(tmp_path / "a report"))
    python, script, *arguments = shlex.split(commands[f"export {method.type}"])
    assert (python, script) == ("python", "jobs/finetune.py")
    found = parse(FinetuneJob, arguments, prog="finetune").config
    assert (found.method, found.model, found.seed, found.test) == (method, plan.model, 100, True)
    assert (found.storage, found.data, found.tokens) == (job.storage, job.data, job.tokens)
    training = resolved(found.method, found.training)  # as the job does it
    again = replace(plan, method=found.method, training=training, phase="finetune")
    assert again.run_id(100) == plan.run_id(100)
    assert found.export == method.type


def test_models_of_a_remote_storage_go_there(plan_for: PlanFor, tmp_path: Path) -> None:
    job = SweepJob(storage="s3://bucket/runs")
    commands = write_recipes(job, [plan_for(FullStableConfig())], 100, str(tmp_path))
    assert commands["export full_stable"].endswith("--export s3://bucket/runs/models/full_stable")


def test_winners_of_one_contender_have_recipes_of_their_own(
    plan_for: PlanFor, tmp_path: Path
) -> None:
    plans = [plan_for(AdaptConfig(), learning_rate=rate) for rate in (1e-3, 1e-4)]
    commands = write_recipes(SweepJob(), plans, 100, str(tmp_path))
    assert len(commands) == len(list(tmp_path.iterdir())) == 2
