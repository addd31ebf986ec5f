"""Run contenders as they are over the same seeds on the test split, and report their spread.

python jobs/stability.py --data.task demo --seeds '[100, 101, 102]'
"""

from adapt_ray import cli
from adapt_ray.config import StabilityJob
from adapt_ray.distributed.compare import Comparison, Runs
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import MissingError
from adapt_ray.distributed.train import unfinished
from adapt_ray.records import RecordStore


def stability(job: StabilityJob, dry_run: bool) -> None:
    """Run every contender over every seed and report; finished runs are not repeated."""
    with Session(job.resources) as session:
        comparison = Comparison(job, session, find_only=dry_run)
        comparison.check()
        if dry_run:
            print(cli.table(comparison.chain.status() | _to_do(job, comparison)))
            return
        comparison.prepare()
        plans = [comparison.plan(name, {}, "stability", test=True) for name in job.contenders]
        comparison.run(plans, job.seeds)
        comparison.report([Runs(plan, job.seeds) for plan in plans])


def _to_do(job: StabilityJob, comparison: Comparison) -> dict[str, str]:
    """Say of each contender how many of its runs are recorded."""
    records = RecordStore(comparison.chain.storage)
    found = {}
    for name in job.contenders:
        try:
            left = unfinished(records, comparison.plan(name, {}, "stability", test=True), job.seeds)
            done = len(job.seeds) - len(left)
        except MissingError:
            done = 0
        found[name] = f"{done} of {len(job.seeds)} runs done"
    return found


if __name__ == "__main__":
    raise SystemExit(cli.main(StabilityJob, stability))
