"""Measure how sensitive a task is to each module of a model: dispersion D and gradient norm G.

python jobs/sensitivity.py --data.task demo
"""

from adapt_ray import cli
from adapt_ray.config import AdaptConfig, SensitivityJob
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain
from adapt_ray.sensitivity.measure import SensitivityMap


def sensitivity(job: SensitivityJob, dry_run: bool) -> None:
    """Build the chain up to the sensitivity map and show it."""
    method = AdaptConfig(task_tokens=job.task_tokens)
    with Session(job.resources) as session:
        chain = Chain(job, session, find_only=dry_run)
        chain.check()
        if dry_run:
            print(cli.table(chain.status()))
            return
        plan = chain.measure_plan(method, job.sensitivity)
        print(as_text(chain.sensitivity(plan)))
        print(cli.table(chain.locations()))


def as_text(measured: SensitivityMap) -> str:
    """Return the map as a table in layer order."""
    rows = zip(measured.modules, measured.dispersion, measured.gradient, strict=True)
    lines = [f"{'layer':>5}  {'module':18}{'parameters':>11}{'D':>10}{'G':>10}"]
    lines += [
        f"{m.layer:>5}  {m.kind:18}{m.parameters:>11,}{d:>10.4g}{g:>10.4g}" for m, d, g in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(cli.main(SensitivityJob, sensitivity))
