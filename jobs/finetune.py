"""Train one method with one seed, record the run, and optionally export the model.

python jobs/finetune.py --data.task demo --method.type adapt --method.sparsity 0.1
python jobs/finetune.py --method.type full --seed 3 --export models/demo
"""

from pathlib import Path

from adapt_ray import cli
from adapt_ray.config import FinetuneJob, absolute_storage

cli.answer_early(FinetuneJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.contenders import check_method, resolved
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain, tokens_in_short
from adapt_ray.distributed.train import SeedRun, WorkerPool, is_finished
from adapt_ray.distributed.trunk import hold
from adapt_ray.export_place import check_export_place
from adapt_ray.records import RecordStore
from adapt_ray.training.trunk import check_trunk_cache


def finetune(job: FinetuneJob, dry_run: bool) -> None:
    """Run the plan unless its record exists, and show the record."""
    training = resolved(job.method, job.training)
    check_method("flags", job.method, job.model, training, job.resources.workers)
    check_trunk_cache("flags", job.method, training)
    export, beside = None, None
    if job.export is not None:
        export = absolute_storage(job.export, "export")
        check_export_place(export)
        beside = None if "://" in export else str(Path(export).parent)
    with Session(job.resources, storage=job.storage, export=beside) as session:
        chain = Chain(job, session, find_only=dry_run)
        chain.check()
        if dry_run:
            print(cli.table(chain.status()))
            return
        if chain.corpus.leaks.pairs:
            print(chain.corpus.leaks.in_words())
        if job.method.task_tokens:
            print(tokens_in_short(chain.tokens))
        plan = chain.run_plan(
            job.method.type,
            job.method,
            training,
            job.sensitivity,
            phase="finetune",
            test=job.test,
        )
        records = RecordStore(chain.storage)
        if export or not is_finished(records, plan, job.seed):
            with WorkerPool(session, job.resources, f"{chain.storage}/ray") as pool:
                states = hold(plan, pool)
                list(pool.do([SeedRun(plan, job.seed, export)]))
                for held in states.values():
                    held.lock.close()
        record = records.get(plan.run_id(job.seed), plan.task, plan.method.type)
        assert record is not None
        places = chain.locations() | ({"export": export} if export else {})
        print(cli.table(record.summary() | places))


if __name__ == "__main__":
    raise SystemExit(cli.main(FinetuneJob, finetune))
