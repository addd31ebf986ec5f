"""Measure how sensitive a task is to each module of a model, and show what would train.

python jobs/sensitivity.py --data.task demo
python jobs/sensitivity.py --method.fill depth_aware --method.new_rows warmup
python jobs/sensitivity.py --sensitivity.heads 3
"""

from adapt_ray import cli
from adapt_ray.config import SensitivityJob, TrainingConfig

cli.answer_early(SensitivityJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.artifacts import check_place, folder_name
from adapt_ray.contenders import check_method
from adapt_ray.distributed.compare import publish_report
from adapt_ray.distributed.selections import selection_map
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import Chain
from adapt_ray.report import drawing, figures
from adapt_ray.report.selections import SelectionMap
from adapt_ray.selection import select
from adapt_ray.selection.agreement import Agreement, agreements
from adapt_ray.sensitivity.measure import SensitivityMap

FIGURE = "selection.png"


def sensitivity(job: SensitivityJob, dry_run: bool) -> None:
    """Build the chain up to the sensitivity map, select by it and show both."""
    if job.report is not None:
        check_place(job.report, "report")
    check_method("flags", job.method, job.model, TrainingConfig())
    with Session(job.resources, storage=job.storage) as session:
        chain = Chain(job, session, find_only=dry_run)
        chain.check()
        if dry_run:
            print(cli.table(chain.status()))
            return
        maps = heads(chain, job) if job.sensitivity.heads > 1 else {}
        measured = chain.map_for(job.method, job.sensitivity)
        inserted = chain.inserted_share(job.method)
        selection = select(measured, job.method, inserted_share=inserted)
        found = selection_map("adapt", measured, job.method, selection, inserted)
        target = job.report or f"{chain.storage}/reports/{folder_name(chain.corpus.name)}"
        figure = figures.selection_map(found)
        publish_report(target, lambda folder: drawing.save(figure, folder / FIGURE))
        print(as_text(found, measured))
        if len(maps) > 1:
            print(heads_as_text(agreements(maps, job.method, inserted)))
        print(cli.table(chain.locations() | {"figure": f"{target}/{FIGURE}"}))


def heads(chain: Chain, job: SensitivityJob) -> dict[int, SensitivityMap]:
    """Return the maps through as many seeded heads as the job asks for, by seed."""
    first = job.sensitivity.head_seed
    maps = {}
    for seed in range(first, first + job.sensitivity.heads):
        measuring = job.sensitivity.model_copy(update={"head_seed": seed})
        maps[seed] = chain.sensitivity(chain.measure_plan(job.method, measuring))
        print(f"map through head {seed}: {chain.store.location(chain.manifests['sensitivity'])}")
    return maps


def heads_as_text(found: list[Agreement]) -> str:
    """Return how maps through different heads agree, one line a pair."""
    lines = ["D does not depend on the head; between heads"]
    for pair in found:
        one, other = pair.heads
        shared = pair.selection
        lines.append(
            f"  {one} and {other}: rank correlation of G {pair.gradient:.3f}, selections have "
            f"{shared.share:.1%} of their parameters in common ({shared.by_chance:.1%} by chance)"
        )
    return "\n".join(lines)


def as_text(found: SelectionMap, measured: SensitivityMap) -> str:
    """Return the map as a table in layer order, and what the selection costs."""
    lines = [
        f"{'layer':>5}  {'module':20}{'parameters':>12}{'FLOPs/token':>13}{'D':>10}{'G':>10}"
        f"{'score':>8}  trains"
    ]
    lines += [
        f"{m.layer:>5}  {m.kind:20}{m.parameters:>12,}{info.flops:>13,}{m.dispersion:>10.4g}"
        f"{m.gradient:>10.4g}{m.score:>8.3g}  {'yes' if m.selected else ''}".rstrip()
        for m, info in zip(found.modules, measured.modules, strict=True)
    ]
    return "\n".join(
        [
            *lines,
            f"trained share {found.trained_share:.1%}; a step takes {found.flop_share:.1%} of full "
            f"finetuning's operations, {found.cached_flop_share:.1%} above a cached trunk",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(SensitivityJob, sensitivity))
