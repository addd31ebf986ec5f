"""Run contenders as they are over the same seeds on the test split, and report their spread.

python jobs/stability.py --data.task demo --seeds '[100, 101, 102]'
python jobs/stability.py jobs/recipes/small/macro_f1.yaml --data.folder FOLDER
"""

from adapt_ray import cli
from adapt_ray.config import StabilityJob

cli.answer_early(StabilityJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.distributed.session import Session
from adapt_ray.distributed.study import Study


def stability(job: StabilityJob, dry_run: bool) -> None:
    """Run every contender over every seed, in every combination, and report.

    Finished runs are not repeated.
    """
    with Session(job.resources, storage=job.storage) as session:
        study = Study(job, session, dry_run=dry_run)
        study.check()
        if dry_run:
            print(study.status())
        else:
            study.run()


if __name__ == "__main__":
    raise SystemExit(cli.main(StabilityJob, stability))
