"""Recipes of what a sweep compared in the end: one command trains and exports such a model."""

import shlex
from collections.abc import Sequence

import yaml

from adapt_ray.artifacts import folder_name, open_root, write_whole
from adapt_ray.config import FinetuneJob, SweepJob
from adapt_ray.training.run import RunPlan


def recipe_of(job: SweepJob, plan: RunPlan, seed: int) -> FinetuneJob:
    """Return the job that does one run of a sweep's final comparison again."""
    return FinetuneJob(
        storage=job.storage,
        data=job.data,
        resources=job.resources,
        model=job.model,
        mining=job.mining,
        tokens=job.tokens,
        sensitivity=job.sensitivity,
        training=plan.training,
        method=plan.method,
        seed=seed,
        test=plan.test,
    )


def write_recipes(
    job: SweepJob, plans: Sequence[RunPlan], seed: int, target: str
) -> dict[str, str]:
    """Write a recipe for each plan beside the report; return the commands that export models.

    The run of ``seed`` is on record: the model is trained again with the same result. Models go
    into the storage where that is a URI, and into the working directory otherwise.
    """
    filesystem, folder = open_root(target)
    commands = {}
    models = f"{job.storage}/models/" if "://" in job.storage else ""
    names = [plan.contender for plan in plans]
    for plan in plans:
        several = names.count(plan.contender) > 1  # winners of a search for more than one objective
        name = plan.contender + (f"-{plan.configuration_id[:6]}" if several else "")
        file = f"export-{folder_name(name)}.yaml"
        values = recipe_of(job, plan, seed).model_dump(mode="json")
        content = yaml.safe_dump(values, sort_keys=False).encode()
        write_whole(filesystem, f"{folder}/{file}", content)
        model = f"{models}{folder_name(name)}"
        command = ["python", "jobs/finetune.py", f"{target}/{file}", "--export", model]
        commands[f"export {name}"] = shlex.join(command)
    return commands
