"""Zero- and few-shot prompting baselines with a causal model, here or at an endpoint.

python jobs/prompt.py jobs/recipes/prompt.yaml --data.task scierc
python jobs/prompt.py --prompt.endpoint http://localhost:8000/v1 --prompt.model NAME --dry-run
"""

from adapt_ray import cli
from adapt_ray.config import PromptJob

cli.answer_early(PromptJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.distributed.prompt import Prompting
from adapt_ray.distributed.session import Session
from adapt_ray.report.prompting import prompting
from adapt_ray.report.tables import markdown


def prompt(job: PromptJob, dry_run: bool) -> None:
    """Ask what is not answered yet, record every setting, and show how well it went."""
    with Session(job.resources, storage=job.storage) as session:
        prompting_job = Prompting(job, session)
        if dry_run:
            print(f"{cli.table(prompting_job.status())}\n\nA prompt:\n{prompting_job.example()}")
            return
        prompting_job.ask()
        records = prompting_job.record()
        print(f"\n{markdown(prompting(records))}\n")
        print(cli.table(prompting_job.locations()))


if __name__ == "__main__":
    raise SystemExit(cli.main(PromptJob, prompt))
