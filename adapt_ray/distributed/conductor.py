"""Studies played on Ray: a searcher for Tune that orders runs and passes their scores on."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.tune.search import Searcher

from adapt_ray.distributed.train import SeedRun, WorkerPool
from adapt_ray.distributed.trunk import hold
from adapt_ray.distributed.voice import METRIC
from adapt_ray.errors import last_line
from adapt_ray.records import RecordStore
from adapt_ray.search.study import Proposal, Racer, Score, Step, Study, advance
from adapt_ray.sweep_progress import SweepProgress
from adapt_ray.training.run import RunPlan
from adapt_ray.training.trunk_space import Held

PlanFor = Callable[[Proposal], RunPlan]
Known = Callable[[Proposal, int], Score | None]


def recorded(records: RecordStore, plan_for: PlanFor) -> Known:
    """Return a look-up of the score of a proposal's run with a seed; None while not finished."""
    plans: dict[tuple[str, int], RunPlan] = {}  # making one loads and solves what it selects by

    def known(proposal: Proposal, seed: int) -> Score | None:
        name = proposal.contender, proposal.number
        if name not in plans:
            plans[name] = plan_for(proposal)
        plan = plans[name]
        record = records.get(plan.run_id(seed), plan.task, plan.method.type)
        if record is None or not record.finished:
            return None
        return Score(record.judged(), float(record.train_flops or 0))

    return known


class Conductor(Searcher):
    """Tune's view of some studies.

    Runs are ordered as soon as a study hands them out. A configuration becomes a trial, which
    passes on the scores of its runs; the studies hear them here and hand out more.
    """

    def __init__(
        self,
        phase: str,
        pool: WorkerPool,
        plan_for: PlanFor,
        known: Known,
        progress: SweepProgress,
        deadline: float | None = None,
    ) -> None:
        """``deadline``: time.monotonic() after which no further run is ordered."""
        super().__init__(metric=METRIC, mode="max")
        self._phase = phase
        self._pool = pool
        self._plan_for = plan_for
        self._known = known
        self._progress = progress
        self._deadline = deadline
        self._studies: list[Study] = []
        self._configurations: dict[str, _Configuration] = {}  # by channel
        self._trials: dict[str, _Configuration] = {}
        self._fillers = ThreadPoolExecutor(max_workers=pool.groups)

    def take(self, study: Study, step: Step) -> None:
        """Take up a study, and order what it wants now."""
        self._studies.append(study)
        self._order(study, step)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next configuration for Tune, None to wait, or that there is none."""
        waiting = [one for one in self._configurations.values() if one.needs_trial]
        if not waiting:
            over = self._is_over or all(study.is_done for study in self._studies)
            return Searcher.FINISHED if over else None
        found = self._trials[trial_id] = waiting[0]
        found.has_trial = True
        about = {"channel": found.channel, "label": found.label, "known": found.known}
        return {**about, **found.racer.proposal.values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a result on to its study."""
        found = self._trials[trial_id]
        number = found.racer.proposal.number
        if result["index"] < found.heard:  # a trial that was killed tells everything again
            return
        found.heard += 1
        if "error" in result:
            found.error = result["error"]
            found.study.fail(number)
        else:
            score = self._known(found.racer.proposal, result["seed"])
            assert score is not None
            found.study.tell(number, result["seed"], score)
            self._progress.scored(found.label, result["seed"], score.macro_f1)
        self._advance()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Give a configuration up whose trial ended by itself."""
        found = self._trials[trial_id]
        if error and found.racer.fate == "racing":
            found.study.fail(found.racer.proposal.number)
            self._advance()

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Leave nothing in the copy that Tune keeps for a restart of its own."""
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are what a restart replays."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    @property
    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _advance(self) -> None:
        """Order what the studies hand out by now, and let go of configurations that are through."""
        if not self._is_over:
            for study in self._studies:
                self._order(study, advance(study, self._known))
        for found in self._configurations.values():
            racing = found.racer.fate == "racing" and not self._is_over
            if not racing and not found.closed and found.heard == found.ordered:
                self._close(found)

    def _order(self, study: Study, step: Step) -> None:
        for proposal in step.begun:
            racer, plan = study.racers[proposal.number], self._plan_for(proposal)
            found = _Configuration(self._channel(proposal), study, racer, plan)
            self._configurations[found.channel] = found
            self._progress.began(found.label, found.known)
        for proposal, seed in step.runs:
            found = self._configurations[self._channel(proposal)]
            found.ordered += 1
            run = partial(self._pool.order, found.channel, SeedRun(found.plan, seed))
            if found.plan.trunk is None:
                run()
            else:
                self._once_filled(found, run)

    def _channel(self, proposal: Proposal) -> str:
        return f"{self._phase}: {proposal.contender} #{proposal.number}"

    def _once_filled(self, found: "_Configuration", run: Callable[[], None]) -> None:
        """Order a run when the states that it reads are there, without keeping Tune waiting."""

        def then(filling: "Future[dict[str, Held]]") -> None:
            error = filling.exception()
            if error is None:
                run()
            else:
                ray.get(self._pool.desk.post.remote(found.channel, {"error": last_line(error)}))

        if found.states is None:
            found.states = self._fillers.submit(hold, found.plan, self._pool)
        found.states.add_done_callback(then)

    def _close(self, found: "_Configuration") -> None:
        found.closed = True
        ray.get(self._pool.desk.finish.remote(found.channel))
        if found.states is not None and found.states.exception() is None:
            for held in found.states.result().values():
                held.lock.close()
        self._progress.ended(found.label, found.racer.fate, found.error)


@dataclass
class _Configuration:
    """A configuration on its way: what is known of it, ordered for it and heard of it."""

    channel: str  # of the desk
    study: Study
    racer: Racer
    plan: RunPlan
    ordered: int = 0
    heard: int = 0
    has_trial: bool = False
    error: str | None = None  # of a run that cannot be done
    closed: bool = False  # nothing more will be ordered, and all that was is heard of
    states: "Future[dict[str, Held]] | None" = None  # the cached ones that its runs read

    def __post_init__(self) -> None:
        proposal = self.racer.proposal
        number = f" #{proposal.number}" if proposal.values else ""
        self.label = f"{proposal.contender}{number}"
        self.known = [score.macro_f1 for _, score in sorted(self.racer.scores.items())]

    @property
    def needs_trial(self) -> bool:
        """Whether runs were ordered that nobody passes on yet."""
        return self.ordered > 0 and not self.has_trial
