"""The search algorithm of a sweep: one Optuna study per contender, taken in turn.

Proposals are a pure function of the study seed and of the results told so far, and results are
told in the order of their proposals. A restarted sweep therefore replays its studies from the
records and goes on where it stopped; nothing else has to be saved.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from adapt_ray import seeding
from adapt_ray.config import Contender, Interval, Scalar, SearchConfig, TrainingConfig
from adapt_ray.contenders import settings
from adapt_ray.distributed.train import METRIC
from adapt_ray.training.run import RunPlan


@dataclass(frozen=True)
class Proposal:
    """A configuration to try: the ``number``-th of a contender, and its searched values."""

    contender: str
    number: int
    values: Mapping[str, Scalar]


@dataclass
class _Study:
    """One contender's Optuna study and what of it is in flight."""

    contender: str
    space: dict[str, optuna.distributions.BaseDistribution]
    first: dict[str, Scalar]
    seed: int
    wanted: int
    concurrency: int
    proposed: list[Proposal] = field(default_factory=list)
    waiting: dict[int, float | None] = field(default_factory=dict)
    told: int = 0

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = None
        if self.space:
            first = [self.first] if self.first else None
            self._search = OptunaSearch(
                self.space, metric=METRIC, mode="max", points_to_evaluate=first
            )

    @property
    def exhausted(self) -> bool:
        return len(self.proposed) == self.wanted

    @property
    def _batch_end(self) -> int:
        return min(self.told + self.concurrency, self.wanted)

    def propose(self) -> Proposal | None:
        """Return the next proposal, or None while a batch of proposals is in flight."""
        if len(self.proposed) == self._batch_end:
            return None
        number = len(self.proposed)
        values: dict[str, Scalar] = {}
        if self._search is not None:
            # A sampler seeded once would repeat its start-up proposals after a restart.
            seed = seeding.derive(self.seed, "proposal", self.contender, number)
            study: Any = self._search._ot_study
            study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
            values = self._search.suggest(str(number)) or {}
        self.proposed.append(Proposal(self.contender, number, values))
        return self.proposed[-1]

    def tell(self, number: int, value: float | None) -> None:
        """Take a result (None: failed); the study hears of a batch when it is complete.

        Which proposals make a batch, and in which order they are told, depends on their numbers
        alone, not on which trial happens to end first.
        """
        self.waiting[number] = value
        if self.told + len(self.waiting) < self._batch_end:
            return
        for told, result in sorted(self.waiting.items()):
            if self._search is not None:
                reported = None if result is None else {METRIC: result}
                self._search.on_trial_complete(str(told), reported, error=result is None)
        self.told += len(self.waiting)
        self.waiting.clear()


class ContenderSearch(Searcher):
    """Tune's view of all contenders' studies."""

    def __init__(
        self,
        contenders: Mapping[str, Contender],
        search: SearchConfig,
        training: TrainingConfig,
        plan_for: Callable[[Proposal], RunPlan],
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._plan_for = plan_for
        self._studies = {
            name: _Study(
                name,
                {path: _distribution(values) for path, values in contender.space.items()},
                own_point(contender, training),
                search.study_seed,
                search.configurations if contender.space else 1,
                search.concurrency,
            )
            for name, contender in contenders.items()
        }
        self._ready: list[Proposal] = []
        self._running: dict[str, Proposal] = {}

    @property
    def proposals(self) -> list[Proposal]:
        """All configurations proposed so far, contender by contender."""
        return [proposal for study in self._studies.values() for proposal in study.proposed]

    @property
    def remaining(self) -> int:
        """Configurations that are not finished."""
        return sum(study.wanted - study.told for study in self._studies.values())

    def replay(self, result: Callable[[Proposal], float | None]) -> None:
        """Repeat every proposal whose result is known; the first unknown ones are run next."""
        for study in self._studies.values():
            unknown: list[Proposal] = []
            while (proposal := study.propose()) is not None:
                known = result(proposal)
                if known is None:
                    unknown.append(proposal)
                else:
                    study.tell(proposal.number, known)
            self._ready += unknown

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next configuration for Tune, None to wait, or that the search is over."""
        proposal = self._ready.pop(0) if self._ready else self._next()
        if proposal is None:
            done = all(study.exhausted for study in self._studies.values())
            return Searcher.FINISHED if done else None
        self._running[trial_id] = proposal
        label = f"{proposal.contender} #{proposal.number}"
        return {"plan": self._plan_for(proposal), "label": label}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the contender's study."""
        proposal = self._running.pop(trial_id)
        value = None if error or not result else result.get(METRIC)
        self._studies[proposal.contender].tell(proposal.number, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are what a restart replays."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _next(self) -> Proposal | None:
        """Ask the study with the fewest proposals first, so that contenders advance together."""
        for study in sorted(self._studies.values(), key=lambda s: len(s.proposed)):
            proposal = study.propose()
            if proposal is not None:
                return proposal
        return None


def own_point(contender: Contender, training: TrainingConfig) -> dict[str, Scalar]:
    """Return a contender's own settings as a point of its space, or {} where they lie outside.

    They are tried first: a small search should not do worse than no search.
    """
    method, training = settings(contender, training, {}, "contender")
    own = {f"method.{name}": value for name, value in method} | {
        f"training.{name}": value for name, value in training
    }
    point = {path: own[path] for path in contender.space}
    inside = all(_within(point[path], values) for path, values in contender.space.items())
    return point if inside else {}


def _within(value: Any, values: Interval | tuple[Scalar, ...]) -> bool:
    if isinstance(values, Interval):
        return bool(values.low <= value <= values.high)
    return value in values


def _distribution(values: Any) -> optuna.distributions.BaseDistribution:
    if isinstance(values, Interval):
        return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.CategoricalDistribution(values)
