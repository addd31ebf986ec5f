"""A stability job over one or many combinations of corpus, model and settings.

Each combination is a job of its own that goes on from what is recorded; the study checks all of
them first, prepares one after the other, runs all of them side by side, and ends with one report.
"""

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapt_ray import cli, known
from adapt_ray.artifacts import check_place, folder_name
from adapt_ray.config import ModelConfig, StabilityJob, absolute_storage
from adapt_ray.contenders import settings
from adapt_ray.distributed import sweep
from adapt_ray.distributed.compare import (
    Comparison,
    check_contenders,
    check_finished,
    comparison_table,
    records_of,
    write_records_report,
)
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.stages import MissingError
from adapt_ray.distributed.sweep import Runs
from adapt_ray.distributed.train import unfinished
from adapt_ray.errors import InputError, JobError
from adapt_ray.estimates import Shape, run_flops, size_as_published, size_of
from adapt_ray.known import CorpusSize
from adapt_ray.measures import machine
from adapt_ray.modeling import attention_width, module_infos, unloaded_backbone
from adapt_ray.pretrained import is_here
from adapt_ray.records import RecordStore, RunRecord, run_records
from adapt_ray.report import beside
from adapt_ray.report.document import FILE, Context
from adapt_ray.study import Combination, combinations, remedies


@dataclass
class Part:
    """One combination of a study, and what was found out about it before it runs."""

    label: str
    job: StabilityJob
    left_out: dict[str, str] = field(default_factory=dict)  # contenders, and why
    unchecked: list[str] = field(default_factory=list)  # what could not be, and why


@dataclass(frozen=True)
class Ready:
    """A combination that can run."""

    part: Part
    comparison: Comparison
    runs: list[Runs]


@dataclass(frozen=True)
class Plan:
    """What a part has to do: runs recorded and runs asked for, by contender; hours of the rest."""

    done: Mapping[str, int | None]  # None where it cannot be known here
    runs: int  # of every contender
    hours: float | None  # GPU-hours; None where the size of model or corpus is not known


class Study:
    """All combinations of a stability job."""

    def __init__(self, job: StabilityJob, session: Session, *, dry_run: bool) -> None:
        self.job = job
        self.dry_run = dry_run
        self.session = session
        self.storage = absolute_storage(job.storage)
        found = combinations(job)
        self.several = bool(job.across)
        self.target = job.report or f"{self.storage}/reports/{job.table or 'study'}"
        self.parts = [Part(one.label, self._apart(one)) for one in found]

    def check(self) -> None:
        """Check every combination before anything starts.

        Raises InputError for the first that cannot work. A model that is not on this machine is
        checked by its published sizes where they are known, and not at all elsewhere; the part
        says so.
        """
        if self.job.report is not None:
            check_place(self.job.report, "report")
        with _shapes() as shape_of:
            for part in self.parts:
                try:
                    self._check(part, shape_of(part.job.model))
                except InputError as error:
                    raise InputError(f"{part.label}: {error}" if part.label else error) from None

    def run(self) -> None:
        """Prepare every combination, run them all side by side, and report on each and on all.

        What fails is told and does not keep the others from running; JobError ends the job then.
        """
        print("".join(f"{note}\n" for note in self._unchecked()), end="")
        failures: dict[str, str] = {}
        ready: list[Ready] = []
        for part in self.parts:
            with self._told(part, failures):
                ready.append(self._prepare(part))
        if ready:
            with ready[0].comparison.stage() as stage:
                sweep.run_all(stage, [each for one in ready for each in one.runs])
        for one in ready:
            with self._told(one.part, failures):
                self._finish(one)
        if self.several:
            runs = (records_of(self.storage, one.runs) for one in ready)
            self._report([record for records in runs for record in records])
        if failures:
            label, error = next(iter(failures.items()))
            raise JobError(
                f"{len(failures)} of {len(self.parts)} combinations did not finish; the same "
                f"command goes on with them. The first: {label}: {error}"
            )

    @contextmanager
    def _told(self, part: Part, failures: dict[str, str]) -> Iterator[None]:
        """Note what fails in one of several combinations, and let the others go on."""
        try:
            yield
        except (InputError, JobError) as error:
            if not self.several:
                raise
            failures[part.label] = str(error)
            print(f"failed: {part.label}: {error}", file=sys.stderr)

    def status(self) -> str:
        """Return what is to do, what is done, and about how long the rest takes; runs nothing."""
        with _shapes() as shape_of:
            plans = [self._plan(part, shape_of(part.job.model)) for part in self.parts]
        head = self._table(plans) if self.several else self._list(self.parts[0], plans[0])
        notes = self._unchecked()
        notes += [
            f"{part.label}: left out {name}, {reason}"
            for part in self.parts
            for name, reason in part.left_out.items()
        ]
        return "\n".join([head, _estimate(plans, self.job), *notes])

    def _unchecked(self) -> list[str]:
        """Return what could not be checked, each thing once."""
        return list(dict.fromkeys(note for part in self.parts for note in part.unchecked))

    def _apart(self, one: Combination) -> StabilityJob:
        if not self.several:
            return one.job
        place = f"{self.target}/{folder_name(one.label)}"
        return one.job.model_copy(update={"report": place, "table": None})

    def _check(self, part: Part, shape: ModelConfig | None) -> None:
        if shape is None:
            part.unchecked.append(
                f"{part.job.model.name} is not on this machine: nothing is checked"
            )
            return
        if self.job.skip_impossible:
            self._leave_out(part, shape)
        check_contenders(part.job, shape)
        if shape is part.job.model:
            self._check_chain(part)
        else:
            part.unchecked.append(
                f"{part.job.model.name} is not on this machine: contenders are checked by its "
                "published sizes, corpus and tokenizer when its turn comes"
            )

    def _check_chain(self, part: Part) -> None:
        """Check corpus and tokenizer; a plan is made without a corpus that is out of reach."""
        data = part.job.data
        try:
            Comparison(part.job, self.session, find_only=True).chain.check()
        except InputError as error:
            here = data.source or data.folder or size_as_published(data) is None
            if here or not self.dry_run:
                raise
            part.unchecked.append(str(error))

    def _leave_out(self, part: Part, shape: ModelConfig) -> None:
        for name, contender in part.job.contenders.items():
            alone = part.job.model_copy(update={"contenders": {name: contender}})
            try:
                check_contenders(alone, shape)
            except InputError as error:
                part.left_out[name] = str(error)
        left = {n: c for n, c in part.job.contenders.items() if n not in part.left_out}
        if not left:
            raise InputError(next(iter(part.left_out.values())))
        part.job = part.job.model_copy(update={"contenders": left})

    def _announce(self, part: Part) -> None:
        if self.several:
            print(f"\n== {part.label}")
        for name, reason in part.left_out.items():
            print(f"left out {name}: {reason}")

    def _prepare(self, part: Part) -> Ready:
        """Compute what a combination's plans stand on, and make them."""
        self._announce(part)
        comparison = Comparison(part.job, self.session, find_only=False)
        comparison.check()
        comparison.prepare()
        runs = []
        for name in part.job.contenders:
            plan = comparison.plan(name, {}, "stability", test=True)
            label = f"{part.label}: {name}" if self.several else name
            runs.append(Runs(plan, part.job.seeds, label))
        return Ready(part, comparison, runs)

    def _finish(self, one: Ready) -> None:
        """Report on a combination whose runs are done."""
        job, runs = one.part.job, one.runs
        check_finished(self.storage, runs)
        if self.several:
            print(f"\n== {one.part.label}")
        if job.repeat_shared:
            runs += one.comparison.repeat_shared([each.plan for each in runs], job.seeds)
        found = records_of(self.storage, runs)
        one.comparison.report(runs, self._beside(found) if job.table else None)
        if job.table:
            print(f"\n{beside.in_short(self._beside(found))}")

    def _beside(self, runs: Sequence[RunRecord]) -> beside.Beside:
        assert self.job.table is not None
        return beside.beside(self.job.table, runs, remedies(self.job.storage, self.job.data.folder))

    def _report(self, runs: Sequence[RunRecord]) -> None:
        found = self._beside(runs) if self.job.table else None
        context = Context(command=shlex.join(["python", *sys.argv]), published=found)
        write_records_report(self.target, self.storage, runs, context)
        print(f"\n{comparison_table(runs) if found is None else beside.in_short(found)}\n")
        print(cli.table({"report": f"{self.target}/{FILE}"}))

    def _plan(self, part: Part, shape: ModelConfig | None) -> Plan:
        comparison = Comparison(part.job, self.session, find_only=True)
        done: dict[str, int | None] = dict.fromkeys(part.job.contenders)
        size = size_as_published(part.job.data)
        task = part.job.data.task or ""
        try:
            corpus = comparison.chain.corpus
            size, task = size_of(corpus), corpus.name
            if shape is part.job.model:
                done = {name: self._done(part, comparison, name) for name in part.job.contenders}
        except InputError as error:
            part.unchecked.append(str(error))
        left = {name: len(part.job.seeds) - (count or 0) for name, count in done.items()}
        each = self._hours_by_size(part, shape, size) | self._recorded_hours(part, task)
        told = each.keys() >= left.keys()
        hours = sum(count * each[name] for name, count in left.items()) if told else None
        return Plan(done, len(part.job.seeds), hours)

    def _hours_by_size(
        self, part: Part, shape: ModelConfig | None, size: CorpusSize | None
    ) -> dict[str, float]:
        """Return GPU-hours of a run of each contender; empty where a size is not known."""
        if shape is None or size is None:
            return {}
        found, rate = _shape(shape), 3600e12 * part.job.resources.tflops
        hours = {}
        for name, contender in part.job.contenders.items():
            method, training = settings(contender, part.job.training, {}, name)
            hours[name] = run_flops(part.job, method, training, found, size) / rate
        return hours

    def _done(self, part: Part, comparison: Comparison, name: str) -> int:
        records = RecordStore(self.storage)
        try:
            plan = comparison.plan(name, {}, "stability", test=True)
        except MissingError:
            return 0
        return len(part.job.seeds) - len(unfinished(records, plan, part.job.seeds))

    def _recorded_hours(self, part: Part, task: str) -> dict[str, float]:
        """Return mean GPU-hours of a run of each contender that this machine has recorded."""
        found: dict[str, list[float]] = {}
        for run in run_records(RecordStore(self.storage).all(task)):
            took = (run.train_seconds or 0.0) + (run.evaluate_seconds or 0.0)
            same = (run.model, run.machine) == (part.job.model.name, machine())
            if same and took and run.contender in part.job.contenders:
                found.setdefault(run.contender, []).append(took * run.world_size / 3600)
        return {name: sum(hours) / len(hours) for name, hours in found.items()}

    def _list(self, part: Part, plan: Plan) -> str:
        chain = Comparison(part.job, self.session, find_only=True).chain
        stages = {} if part.unchecked else chain.status()
        runs = {
            name: f"{_count(done)} of {plan.runs} runs done" for name, done in plan.done.items()
        }
        return cli.table(stages | runs)

    def _table(self, plans: Sequence[Plan]) -> str:
        """Return one line a combination: recorded runs by contender, hours of the others."""
        names = list(dict.fromkeys(name for plan in plans for name in plan.done))
        rows = {
            part.label: "  ".join(
                [
                    *(_cell(plan, name).rjust(max(len(name), 7)) for name in names),
                    _hours(plan.hours).rjust(_HOURS),
                ]
            )
            for part, plan in zip(self.parts, plans, strict=True)
        }
        heads = [*(name.rjust(max(len(name), 7)) for name in names), "hours".rjust(_HOURS)]
        return cli.table({"runs done": "  ".join(heads)} | rows)


_HOURS = 8


def _cell(plan: Plan, name: str) -> str:
    return f"{_count(plan.done[name])} of {plan.runs}" if name in plan.done else "-"


def _count(done: int | None) -> str:
    return "?" if done is None else str(done)


def _hours(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _estimate(plans: Sequence[Plan], job: StabilityJob) -> str:
    """Say how many runs there are, how many are recorded, and about how long the others take."""
    done = sum(count or 0 for plan in plans for count in plan.done.values())
    total = sum(plan.runs * len(plan.done) for plan in plans)
    hours = [plan.hours for plan in plans if plan.hours is not None]
    unknown = len(plans) - len(hours)
    beyond = f", {unknown} combinations of unknown size not counted" if unknown else ""
    return (
        f"{done} of {total} runs done; the others take about {_hours(sum(hours))} GPU-hours"
        f"{beyond} (by runs of this machine where there are some, otherwise by operations at "
        f"resources.tflops {job.resources.tflops:g} TFLOP/s sustained)"
    )


@contextmanager
def _shapes() -> Iterator[Callable[[ModelConfig], ModelConfig | None]]:
    """Give a function to what stands for a model in checks: itself where its files are here.

    Otherwise that is a folder with its published configuration, or None for a model not known.
    """
    with tempfile.TemporaryDirectory(prefix="adapt_ray-") as scratch:

        def shape_of(model: ModelConfig) -> ModelConfig | None:
            if is_here(model.name):
                return model
            folder = known.stand_in(model.name, Path(scratch))
            return None if folder is None else model.model_copy(update={"name": folder})

        yield shape_of


def _shape(model: ModelConfig) -> Shape:
    backbone = unloaded_backbone(model)
    parameters = sum(p.numel() for p in backbone.parameters())
    return Shape(module_infos(backbone), parameters, attention_width(backbone))
