"""Write tables and figures from all records of a storage.

python jobs/report.py --storage runs/demo
"""

from adapt_ray import cli
from adapt_ray.config import ReportJob, absolute_storage
from adapt_ray.distributed.compare import comparison_table, publish_report
from adapt_ray.errors import InputError
from adapt_ray.records import RecordStore, run_records
from adapt_ray.report.document import FILE, Context, write_report


def report(job: ReportJob, dry_run: bool) -> None:
    """Read the records and write the report beside them, or where asked."""
    storage = absolute_storage(job.storage)
    store = RecordStore(storage)
    records = store.all(job.task)
    if not len(records):
        of_task = f" of task {job.task!r}" if job.task else ""
        raise InputError(f"storage {storage!r} holds no records{of_task}")
    runs = run_records(records)
    target = job.report or f"{storage}/reports/{job.task or 'all'}"
    print(cli.table({"runs": len(runs), "report": f"{target}/{FILE}"}))
    if dry_run:
        return
    curves = {run.run_id: store.curves(run.run_id) for run in runs if run.phase != "search"}
    publish_report(target, lambda folder: write_report(folder, records, curves, Context()))
    print(f"\n{comparison_table(runs)}")


if __name__ == "__main__":
    raise SystemExit(cli.main(ReportJob, report))
