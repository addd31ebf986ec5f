"""Searches and comparisons on Ray Tune: configurations side by side, their seeds raced or not."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray import tune

from adapt_ray.artifacts import remove_folder
from adapt_ray.config import Contender, ResourcesConfig, SearchConfig, TrainingConfig
from adapt_ray.distributed.conductor import Conductor, PlanFor, recorded
from adapt_ray.distributed.session import Session
from adapt_ray.distributed.train import WorkerPool
from adapt_ray.distributed.voice import speak
from adapt_ray.errors import JobError
from adapt_ray.progress import SweepProgress
from adapt_ray.records import RecordStore
from adapt_ray.search.fixed import FixedRuns
from adapt_ray.search.space import own_point
from adapt_ray.search.study import ContenderStudy, Proposal, Racer, Study, advance
from adapt_ray.training.run import RunPlan

_VOICES = 4  # trials that only pass on scores: more would tell no sooner
_SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried, and what became of it."""

    racer: Racer
    plan: RunPlan

    @property
    def proposal(self) -> Proposal:
        """What was tried."""
        return self.racer.proposal


def search(
    session: Session,
    contenders: Mapping[str, Contender],
    config: SearchConfig,
    training: TrainingConfig,
    plan_for: PlanFor,
    resources: ResourcesConfig,
    storage: str,
) -> list[Trial]:
    """Search every contender on the dev split; what is recorded already is not run again."""
    studies = studies_of(contenders, config, training)
    hours = config.time_budget_hours
    deadline = None if hours is None else time.monotonic() + hours * _SECONDS_AN_HOUR
    trials = len(studies) * config.concurrency
    _play("search", studies, plan_for, session, resources, storage, trials, deadline)
    return [Trial(racer, plan_for(racer.proposal)) for study in studies for racer in study.racers]


def run_all(
    session: Session,
    plans: Sequence[RunPlan],
    seeds: Sequence[int],
    resources: ResourcesConfig,
    storage: str,
) -> None:
    """Run plans over the same seeds, side by side; finished runs are skipped."""
    if plans:
        study = FixedRuns([plan.contender for plan in plans], seeds)
        plan_for: PlanFor = lambda proposal: plans[proposal.number]  # noqa: E731
        _play(plans[0].phase, [study], plan_for, session, resources, storage, _VOICES)


def winners(trials: Sequence[Trial], contenders: Sequence[str]) -> list[Trial]:
    """Return each contender's best configuration by mean dev macro-F1; ties go to the earlier.

    Raises JobError for a contender of which no configuration ran all its seeds.
    """
    best: dict[str, Trial] = {}
    for trial in trials:
        name, mean = trial.proposal.contender, trial.racer.mean
        if mean is not None:
            rival = best.get(name)
            if rival is None or mean > (rival.racer.mean or 0.0):
                best[name] = trial
    for name in contenders:
        if name not in best:
            raise JobError(
                f"{name}: no configuration finished; the same command tries again and goes on"
            )
    return list(best.values())


def studies_of(
    contenders: Mapping[str, Contender], config: SearchConfig, training: TrainingConfig
) -> list[ContenderStudy]:
    """Return the contenders' studies before anything is known."""
    studies = []
    for name, contender in contenders.items():
        own = own_point(contender, training)
        studies.append(ContenderStudy(name, contender, config, first=[own] if own else []))
    return studies


def seed_runs_done(
    contenders: Mapping[str, Contender],
    config: SearchConfig,
    training: TrainingConfig,
    plan_for: PlanFor,
    storage: str,
) -> int:
    """Return how many seed-runs of a search are recorded already; runs nothing."""
    studies = studies_of(contenders, config, training)
    known = recorded(RecordStore(storage), plan_for)
    for study in studies:
        advance(study, known)
    return sum(len(racer.scores) for study in studies for racer in study.racers)


def _play(
    phase: str,
    studies: Sequence[Study],
    plan_for: PlanFor,
    session: Session,
    resources: ResourcesConfig,
    storage: str,
    trials: int,
    deadline: float | None = None,
) -> None:
    known = recorded(RecordStore(storage), plan_for)
    steps = [advance(study, known) for study in studies]
    if all(study.is_done for study in studies):
        return
    # Ray's own state of this launch: the records are what remains.
    folder = f"{storage}/ray/{phase}-{uuid.uuid4().hex[:8]}"
    configurations = sum(study.wanted for study in studies)
    with (
        WorkerPool(session, resources, f"{folder}/groups") as pool,
        SweepProgress(phase, configurations) as progress,
    ):
        conductor = Conductor(pool, plan_for, known, progress, deadline)
        for study, step in zip(studies, steps, strict=True):
            conductor.take(study, step)
        tune.Tuner(
            _trainable(pool),
            tune_config=tune.TuneConfig(
                search_alg=conductor,
                num_samples=configurations,
                max_concurrent_trials=trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
        ).fit()
    remove_folder(folder)


def _trainable(pool: WorkerPool) -> type[tune.Trainable]:
    voice = tune.with_parameters(speak, desk=pool.desk)
    # A trial only waits for scores: any part of a CPU that it held would be missing to the workers.
    # It asks for the head node instead.
    beside = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    found: type[tune.Trainable] = tune.with_resources(voice, beside)
    return found
