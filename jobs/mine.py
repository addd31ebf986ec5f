"""Mine closed token sequences from a corpus's training texts, select its task tokens, report them.

python jobs/mine.py --data.task demo
python jobs/mine.py --data.source corpus.parquet --data.text_column body --mining.max_gap 2
"""

from adapt_ray import cli
from adapt_ray.config import MineJob

cli.answer_early(MineJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain, tokens_as_text
from adapt_ray.report.tokens import HTML, MARKDOWN


def mine(job: MineJob, dry_run: bool) -> None:
    """Build the chain up to the task tokens and show them."""
    with Session(job.resources, storage=job.storage) as session:
        chain = Chain(job, session, find_only=dry_run)
        chain.check()
        if dry_run:
            print(cli.table(chain.status()))
            return
        print(tokens_as_text(chain.tokens))
        found = chain.locations()
        if chain.token_report is not None:
            folder = chain.store.location(chain.token_report)
            found |= {"token report": f"{folder}/{HTML}", "as Markdown": f"{folder}/{MARKDOWN}"}
        print(cli.table(found))


if __name__ == "__main__":
    raise SystemExit(cli.main(MineJob, mine))
