"""Searches and comparisons on Ray Tune: configurations side by side, their seeds raced or not."""

import functools
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import optuna
import ray
from ray import tune

from adapt_ray.artifacts import check_readable, remove_folder
from adapt_ray.config import (
    Contender,
    ResourcesConfig,
    SearchConfig,
    TrainingConfig,
    WatchConfig,
    absolute_storage,
)
from adapt_ray.distributed.conductor import Conductor, Known, PlanFor, recorded
from adapt_ray.distributed.desk import RETRIES
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import WorkerPool
from adapt_ray.distributed.voice import speak
from adapt_ray.distributed.watch import callbacks
from adapt_ray.errors import InputError, JobError, last_line
from adapt_ray.records import RecordStore, RunRecord, run_records
from adapt_ray.report.pareto import pareto_front
from adapt_ray.search.earlier import best_points
from adapt_ray.search.fixed import FixedRuns
from adapt_ray.search.memory import journal, read_points, write_points
from adapt_ray.search.space import Values, own_point
from adapt_ray.search.study import ContenderStudy, Proposal, Racer, Study, advance, objective
from adapt_ray.sweep_progress import SweepProgress
from adapt_ray.training.run import RunPlan

_VOICES = 4  # trials that only pass on scores: more would tell no sooner
_SECONDS_AN_HOUR = 3600.0


class Stage(ExitStack):
    """Where runs are done, and where they can be followed; a context manager.

    Its worker groups start with the first runs, stay for those that follow, and go at the end.
    """

    def __init__(
        self, session: Session, resources: ResourcesConfig, storage: str, watch: WatchConfig
    ) -> None:
        super().__init__()
        self.session = session
        self.resources = resources
        self.storage = storage
        self.watch = watch
        # Ray's own state of this launch: the records are what remains.
        self.folder = f"{storage}/ray/{uuid.uuid4().hex[:12]}"

    @functools.cached_property
    def pool(self) -> WorkerPool:
        """The worker groups."""
        self.callback(_discard, self.folder)
        pool = WorkerPool(self.session, self.resources, f"{self.folder}/groups")
        return self.enter_context(pool)


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried, and what became of it."""

    racer: Racer
    plan: RunPlan

    @property
    def proposal(self) -> Proposal:
        """What was tried."""
        return self.racer.proposal


@dataclass(frozen=True)
class SearchPlan:
    """A search: its contenders, and what turns a proposal into a plan.

    ``name`` tells it from other searches in the same storage.
    """

    name: str
    contenders: Mapping[str, Contender]
    config: SearchConfig
    training: TrainingConfig
    plan_for: PlanFor
    storage: str

    def studies(self, journal: optuna.storages.BaseStorage | None = None) -> list[ContenderStudy]:
        """Return the contenders' studies before anything is known."""
        first = read_points(self.storage, self.name) or self.first_points()
        return [
            ContenderStudy(name, contender, self.config, first=first[name], storage=journal)
            for name, contender in self.contenders.items()
        ]

    def first_points(self) -> dict[str, list[Values]]:
        """Return what each contender tries first: its own settings, then earlier sweeps' best."""
        runs = [run for storage in self.config.warm_start for run in _earlier(storage)]
        points = {}
        for name, contender in self.contenders.items():
            own = own_point(contender, self.training)
            points[name] = [*([own] if own else []), *best_points(runs, contender)]
        return points

    @property
    def known(self) -> Known:
        """The scores on record."""
        return recorded(RecordStore(self.storage), self.plan_for)

    def seed_runs_done(self) -> int:
        """Return how many seed-runs are recorded already; runs nothing."""
        studies = self.studies()
        for study in studies:
            advance(study, self.known)
        return sum(len(racer.scores) for study in studies for racer in study.racers)


def check_warm_start(config: SearchConfig) -> None:
    """Raise InputError for an earlier sweep's storage without records."""
    for storage in config.warm_start:
        if not _earlier(storage):
            raise InputError(f"search.warm_start names {storage!r}, which holds no records")


def _earlier(storage: str) -> list[RunRecord]:
    place = absolute_storage(storage)
    check_readable(place, "search.warm_start")
    return run_records(RecordStore(place).all())


def search(stage: Stage, plan: SearchPlan) -> list[Trial]:
    """Search every contender on the dev split; what is recorded already is not run again."""
    config = plan.config
    if config.warm_start and read_points(plan.storage, plan.name) is None:
        write_points(plan.storage, plan.name, plan.first_points())
    with journal(plan.storage, plan.name) as kept:
        studies = plan.studies(kept)
        hours = config.time_budget_hours
        deadline = None if hours is None else time.monotonic() + hours * _SECONDS_AN_HOUR
        trials = len(studies) * config.concurrency
        _play(stage, "search", studies, plan.plan_for, trials, deadline)
    return [
        Trial(racer, plan.plan_for(racer.proposal)) for study in studies for racer in study.racers
    ]


@dataclass(frozen=True)
class Runs:
    """Runs of one plan, and what to call them while they run."""

    plan: RunPlan
    seeds: Sequence[int]
    label: str = ""

    @property
    def name(self) -> str:
        """The label, or else the contender."""
        return self.label or self.plan.contender


def run_all(stage: Stage, runs: Sequence[Runs]) -> None:
    """Run plans over their seeds, side by side; finished runs are skipped."""
    if runs:
        study = FixedRuns([(each.name, each.seeds) for each in runs])
        plan_for: PlanFor = lambda proposal: runs[proposal.number].plan  # noqa: E731
        _play(stage, runs[0].plan.phase, [study], plan_for, _VOICES)


def winners(trials: Sequence[Trial], plan: SearchPlan) -> list[Trial]:
    """Return what the final comparison runs: of each contender the best configuration.

    The best has the highest mean dev macro-F1, the earlier of equals. With several objectives all
    that no other one beats in everything are best. Raises JobError for a contender of which no
    configuration ran all its seeds.
    """
    best: list[Trial] = []
    for name in plan.contenders:
        whole = [t for t in trials if t.proposal.contender == name and t.racer.mean is not None]
        if not whole:
            raise JobError(
                f"{name}: no configuration finished; the same command tries again and goes on"
            )
        names = plan.config.objectives
        points = [[objective(trial.racer.scores, each) for each in names] for trial in whole]
        if len(names) > 1:
            best += [whole[index] for index in pareto_front(points)]
        else:
            best.append(max(whole, key=lambda trial: trial.racer.mean or 0.0))
    return best


def _play(
    stage: Stage,
    phase: str,
    studies: Sequence[Study],
    plan_for: PlanFor,
    trials: int,
    deadline: float | None = None,
) -> None:
    """Play studies to their ends, ``trials`` configurations beside each other at most."""
    known = recorded(RecordStore(stage.storage), plan_for)
    steps = [advance(study, known) for study in studies]
    if all(study.is_done for study in studies):
        return
    configurations = sum(study.wanted for study in studies)
    seeds = max(study.seeds for study in studies)
    tasks = {plan_for(racer.proposal).task for study in studies for racer in study.racers}
    task = tasks.pop() if len(tasks) == 1 else "study"
    watching = callbacks(stage.watch, stage.storage, phase, task)
    pool = stage.pool
    with SweepProgress(phase, configurations, seeds) as progress:
        if phase == "search" and pool.groups > trials:
            progress.note(
                f"{pool.groups} runs fit side by side, and {trials} configurations race at a time; "
                "a higher --search.concurrency uses the rest"
            )
        conductor = Conductor(phase, pool, plan_for, known, progress, deadline)
        try:
            for study, step in zip(studies, steps, strict=True):
                conductor.take(study, step)
            _tune(conductor, configurations, trials, pool, f"{stage.folder}/{phase}", watching)
        except ray.exceptions.RayActorError as error:
            raise JobError(
                f"the process that hands out runs was lost ({last_line(error)}); the same command "
                "goes on from the finished runs"
            ) from None


def _tune(
    conductor: Conductor,
    configurations: int,
    trials: int,
    pool: WorkerPool,
    folder: str,
    watching: list[tune.Callback],
) -> None:
    tune.Tuner(
        _trainable(pool),
        tune_config=tune.TuneConfig(
            search_alg=conductor,
            num_samples=configurations,
            max_concurrent_trials=trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            verbose=0,
            callbacks=watching,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    ).fit()


def _discard(folder: str) -> None:
    """Delete Ray's own state of a launch; workers of one that was stopped may still add to it."""
    with suppress(OSError):
        remove_folder(folder)


def _trainable(pool: WorkerPool) -> type[tune.Trainable]:
    voice = tune.with_parameters(speak, desk=pool.desk)
    # A trial only waits for scores: any part of a CPU that it held would be missing to the workers.
    # It asks for the head node instead.
    beside = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    found: type[tune.Trainable] = tune.with_resources(voice, beside)
    return found
