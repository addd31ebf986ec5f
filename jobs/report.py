"""Write tables and figures from all records of a storage, as Markdown and as one HTML page.

python jobs/report.py --storage runs/demo
python jobs/report.py --storage runs/paper --table macro_f1
"""

from adapt_ray import cli
from adapt_ray.config import ReportJob, absolute_storage

cli.answer_early(ReportJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.artifacts import check_place, check_readable, folder_name
from adapt_ray.distributed.compare import comparison_table, write_records_report
from adapt_ray.errors import InputError
from adapt_ray.records import RecordStore, run_records
from adapt_ray.report import beside
from adapt_ray.report.document import FILE, PAGE, Context
from adapt_ray.study import remedies


def report(job: ReportJob, dry_run: bool) -> None:
    """Read the records and write the report beside them, or where asked."""
    storage = absolute_storage(job.storage)
    check_readable(storage)
    records = RecordStore(storage).all(job.task)
    if not len(records):
        of_task = f" of task {job.task!r}" if job.task else ""
        raise InputError(f"storage {storage!r} holds no records{of_task}")
    runs = run_records(records)
    target = job.report or f"{storage}/reports/{folder_name(job.task or 'all')}"
    check_place(target, "report")
    where = {"report": f"{target}/{FILE}", "page": f"{target}/{PAGE}"}
    print(cli.table({"runs": len(runs), **where}))
    if dry_run:
        return
    found = beside.beside(job.table, runs, remedies(job.storage, None)) if job.table else None
    write_records_report(
        target,
        storage,
        runs,
        Context(published=found),
        curves="all" if job.search_curves else "final",
    )
    print(f"\n{beside.in_short(found) if found else comparison_table(runs)}")


if __name__ == "__main__":
    raise SystemExit(cli.main(ReportJob, report))
