"""Search each contender on the dev split, then compare the winners on the test split.

python jobs/sweep.py jobs/recipes/demo.yaml
python jobs/sweep.py --data.source corpus.csv --data.label_column topic --search.seeds 5
"""

from collections.abc import Sequence

from adapt_ray import cli
from adapt_ray.config import SweepJob

cli.answer_early(SweepJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.artifacts import digest_json
from adapt_ray.distributed.compare import Comparison
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import MissingError
from adapt_ray.distributed.sweep import (
    Runs,
    SearchPlan,
    Trial,
    check_warm_start,
    search,
    winners,
)
from adapt_ray.distributed.winner import write_recipes
from adapt_ray.search.study import Proposal
from adapt_ray.training.run import RunPlan

FIRST_FINAL_SEED = 100  # none of the final seeds took part in the search


def sweep(job: SweepJob, dry_run: bool) -> None:
    """Mine, measure, search, compare and report; what is done already is not repeated."""
    with Session(job.resources, storage=job.storage) as session:
        comparison = Comparison(job, session, find_only=dry_run)
        comparison.check()
        check_warm_start(job.search)
        chain = comparison.chain

        def plan_for(proposal: Proposal) -> RunPlan:
            return comparison.plan(proposal.contender, proposal.values, "search", test=False)

        plan = SearchPlan(
            digest_json([job.key(), chain.corpus.digest()])[:12],
            job.contenders,
            job.search,
            job.training,
            plan_for,
            chain.storage,
        )
        if dry_run:
            print(cli.table(chain.status() | _to_do(job, comparison, plan)))
            return

        comparison.prepare()
        seeds = range(FIRST_FINAL_SEED, FIRST_FINAL_SEED + job.search.final_seeds)
        with comparison.stage() as stage:
            with chain.timed("search"):
                trials = search(stage, plan)
            plans = _finals(comparison, winners(trials, plan))
            finals = [Runs(each, seeds) for each in plans]
            comparison.run(finals, stage)
        own = comparison.repeat_shared(plans, seeds) if job.repeat_shared else []

        searched = [Runs(trial.plan, range(job.search.seeds)) for trial in trials]
        comparison.report([*searched, *finals, *own])
        print(cli.table(write_recipes(job, plans, seeds[0], comparison.target)))


def _finals(comparison: Comparison, best: Sequence[Trial]) -> list[RunPlan]:
    """Return the plans of the final comparison, each once: two proposals can mean the same."""
    plans = [
        comparison.plan(trial.proposal.contender, trial.proposal.values, "final", test=True)
        for trial in best
    ]
    return list({plan.configuration_id: plan for plan in plans}.values())


def _to_do(job: SweepJob, comparison: Comparison, plan: SearchPlan) -> dict[str, str]:
    """Say how many seed-runs the search has, how many are recorded, and what the rest takes."""
    studies = plan.studies()
    total = sum(study.wanted for study in studies) * job.search.seeds
    try:
        done = plan.seed_runs_done()
    except MissingError:
        done = 0
    final = job.search.final_seeds * len(job.contenders)
    racing = any(study.races for study in studies)
    most = "at most " if racing else ""
    return {
        "search": f"{done} of {most}{total} seed-runs done",
        "final": f"up to {final} runs of the winners",
        "estimate": most + comparison.estimate(total - done + final),
    }


if __name__ == "__main__":
    raise SystemExit(cli.main(SweepJob, sweep))
