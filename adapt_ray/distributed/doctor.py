"""The doctor's round: the driver's machine, the cluster, and every node of it."""

import os
import time
from contextlib import ExitStack
from functools import partial

import ray

from adapt_ray.beacon import lit
from adapt_ray.config import Job, ModelConfig, PredictJob, TrainingConfig, absolute_storage
from adapt_ray.distributed.nodes import alive, on_every_node
from adapt_ray.distributed.session import Session
from adapt_ray.doctor import (
    Finding,
    Host,
    Level,
    Request,
    as_text,
    bug_report,
    clocks,
    examine,
    fits,
    judge,
)
from adapt_ray.errors import InputError, JobError


def doctor(job: Job | PredictJob, dry_run: bool) -> None:
    """Check what a job will need, and print it; JobError when something is missing.

    Storage, model and engine are those of the job's configuration.
    """
    model: ModelConfig | str | None = getattr(job, "model", None)
    if isinstance(model, str):
        model = absolute_storage(model, "model")
    field, place = (
        ("output", job.output) if isinstance(job, PredictJob) else ("storage", job.storage)
    )
    training: TrainingConfig | None = getattr(job, "training", None)
    with ExitStack() as undo:
        findings: list[Finding] = []
        beacon = None
        try:
            beacon = undo.enter_context(lit(absolute_storage(place, field), field))
        except InputError as error:
            findings.append(Finding("problem", "storage", str(error)))
        deepspeed = training is not None and training.engine == "deepspeed"
        request = Request(beacon, model, deepspeed)
        here = examine(request)
        nodes: dict[str, Host] = {}
        silent: dict[str, str] = {}
        try:
            undo.enter_context(Session(job.resources)).start()
        except InputError as error:
            findings.append(Finding("problem", "ray", str(error)))
        else:
            nodes, silent = on_every_node(partial(examine, request))
            findings += [*_cluster(job), *_clocks()]
    findings += judge(here, nodes, silent)
    print(as_text(findings))
    print(f"\nFor a bug report:\n\n{bug_report(here, nodes)}\n")
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        raise JobError(f"{problems} problem(s); see above")


def _clocks() -> list[Finding]:
    """Compare clocks once every node has a process that answers at once."""
    asked = time.time()
    told, _ = on_every_node(time.time)
    return clocks(asked, told, time.time())


def _cluster(job: Job | PredictJob) -> list[Finding]:
    address = job.resources.address or os.environ.get("RAY_ADDRESS")
    have = ray.cluster_resources()
    where = f"the cluster at {ray.get_runtime_context().gcs_address}" if address else "a local Ray"
    tokens = "with" if os.environ.get("RAY_AUTH_MODE") == "token" else "without"
    text = f"{where}, {len(alive())} node(s), {tokens} token authentication"
    level: Level = "note" if address and tokens == "without" else "ok"
    return [
        Finding(level, "ray", text),
        fits(job.resources, have.get("CPU", 0), have.get("GPU", 0), scales=bool(address)),
    ]
