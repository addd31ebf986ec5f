"""One contender's search: proposals in batches, each raced over its seeds, all from one study seed.

What a study proposes and drops is a function of the study seed and of the scores it was told, not
of the order in which they came: proposals are made a batch at a time, a batch is raced in rounds,
and a round is decided when its last score is there. A search that was killed is therefore repeated
from the recorded scores, and goes on where it stopped.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import optuna

from adapt_ray import seeding
from adapt_ray.config import Contender, Range, Scalar, SearchConfig
from adapt_ray.search.racing import EmpiricalBayes, Rule
from adapt_ray.search.space import Values, grid, suggest

Fate = Literal["racing", "finished", "dropped", "failed"]


@dataclass(frozen=True)
class Proposal:
    """A configuration to try: the ``number``-th of a contender, and its searched values."""

    contender: str
    number: int
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class Score:
    """What a finished seed-run tells the search."""

    macro_f1: float  # of the dev split, 0 to 1
    train_flops: float = 0.0


@dataclass
class Racer:
    """A proposal in the race: its scores by position of the seed, and what became of it."""

    proposal: Proposal
    scores: dict[int, Score] = field(default_factory=dict)
    fate: Fate = "racing"

    @property
    def mean(self) -> float | None:
        """Mean dev macro-F1 of a configuration that ran all its seeds."""
        return _mean(self.scores) if self.fate == "finished" else None


class Study(Protocol):
    """Hands out seed-runs and is told their scores."""

    racers: list[Racer]

    @property
    def seeds(self) -> int:
        """Seeds of a configuration that runs them all."""
        ...

    @property
    def wanted(self) -> int:
        """Configurations in all."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether every configuration has met its fate."""
        ...

    def begin(self) -> list[Proposal]:
        """Return configurations that begin now."""
        ...

    def runs(self) -> Iterator[tuple[Proposal, int]]:
        """Yield the seed-runs that may begin now, each once: proposal and seed."""
        ...

    def tell(self, number: int, seed: int, score: Score) -> None:
        """Take the score of a seed-run."""
        ...

    def fail(self, number: int) -> None:
        """Note that a run of a configuration cannot be done."""
        ...


@dataclass(frozen=True)
class Step:
    """What a study wants next: configurations that began, and runs that must be done."""

    begun: Sequence[Proposal]
    runs: Sequence[tuple[Proposal, int]]


def advance(study: Study, known: Callable[[Proposal, int], Score | None]) -> Step:
    """Take a study as far as known scores lead."""
    begun: list[Proposal] = []
    runs: list[tuple[Proposal, int]] = []
    moved = True
    while moved:
        new = study.begin()
        begun += new
        moved = bool(new)
        for proposal, seed in list(study.runs()):
            score = known(proposal, seed)
            if score is None:
                runs.append((proposal, seed))
            else:
                study.tell(proposal.number, seed, score)
                moved = True
    return Step(begun, runs)


class ContenderStudy:
    """The search of one contender; it hands out seed-runs and is told their scores.

    A contender without a space is one configuration and runs all its seeds, as every configuration
    does when racing is off or there are several objectives.
    """

    def __init__(
        self,
        name: str,
        contender: Contender,
        search: SearchConfig,
        *,
        first: Sequence[Values] = (),
        rule: Rule | None = None,
        storage: optuna.storages.BaseStorage | None = None,
    ) -> None:
        self.name = name
        self.racers: list[Racer] = []
        self._search = search
        self._space: Mapping[str, Range] = contender.space
        self._points: Sequence[Values] = grid(contender.space) if self._is_grid else first
        self._rule = rule or EmpiricalBayes()
        self._handed_out: set[tuple[int, int]] = set()
        self._trials: dict[int, optuna.Trial] = {}
        self._told = 0  # proposals that the sampler knows the end of
        self._study = _create(name, search.objectives, storage)
        for point in self._points[: self.wanted]:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)

    @property
    def seeds(self) -> int:
        """Seeds of a configuration that runs them all."""
        return self._search.seeds

    @property
    def wanted(self) -> int:
        """Configurations that the whole search tries."""
        if not self._space:
            return 1
        return len(self._points) if self._is_grid else self._search.configurations

    @property
    def is_done(self) -> bool:
        """Whether every configuration has met its fate."""
        return self._told == self.wanted

    @property
    def races(self) -> bool:
        """Whether configurations can be dropped before their last seed."""
        search = self._search
        return search.racing and len(search.objectives) == 1 and self.wanted > 1

    def begin(self) -> list[Proposal]:
        """Return the next batch of proposals, once the last one is through; [] before that."""
        if self._told < len(self.racers) or self.is_done:
            return []
        size = min(self._search.concurrency, self.wanted - len(self.racers))
        batch = [self._propose(len(self.racers) + place) for place in range(size)]
        self.racers += map(Racer, batch)
        return batch

    def runs(self) -> Iterator[tuple[Proposal, int]]:
        """Yield the seed-runs that may begin now, each once: proposal and seed."""
        for racer in self._batch:
            if racer.fate == "racing":
                for seed in range(self._round + 1 if self.races else self.seeds):
                    run = racer.proposal.number, seed
                    if run not in self._handed_out:
                        self._handed_out.add(run)
                        yield racer.proposal, seed

    def tell(self, number: int, seed: int, score: Score) -> None:
        """Take the score of a seed-run; a second one of the same run changes nothing."""
        racer = self.racers[number]
        if racer.fate == "racing" and seed not in racer.scores:
            racer.scores[seed] = score
            if len(self._search.objectives) == 1:  # Optuna refuses steps of several objectives
                self._trials[number].report(score.macro_f1, seed)
            self._settle()

    def fail(self, number: int) -> None:
        """Take a configuration out of the race, because one of its runs cannot be done."""
        if self.racers[number].fate == "racing":
            self.racers[number].fate = "failed"
            self._settle()

    def matrix(self) -> npt.NDArray[np.float64]:
        """Return all scores [configurations, seeds], NaN where nothing ran or a run failed."""
        found = np.full((len(self.racers), self.seeds), np.nan)
        for row, racer in enumerate(self.racers):
            if racer.fate != "failed":
                for seed, score in racer.scores.items():
                    found[row, seed] = score.macro_f1
        return found

    @property
    def _is_grid(self) -> bool:
        return self._search.sampler == "grid" and bool(self._space)

    @property
    def _batch(self) -> list[Racer]:
        return self.racers[self._told :]

    @property
    def _round(self) -> int:
        """The seed that the batch runs now: the first that one of it lacks."""
        lacking = [self._first_open(racer) for racer in self._batch if racer.fate == "racing"]
        return min(lacking, default=0)

    def _first_open(self, racer: Racer) -> int:
        return next(seed for seed in range(self.seeds) if seed not in racer.scores)

    def _propose(self, number: int) -> Proposal:
        # A sampler seeded once would repeat its first proposals after a restart.
        seed = seeding.derive(self._search.study_seed, "proposal", self.name, number) % 2**32
        self._study.sampler = _sampler(self._search, seed)
        trial = self._study.ask()
        self._trials[number] = trial
        return Proposal(self.name, number, suggest(trial, self._space))

    def _settle(self) -> None:
        """Decide what the scores decide: rounds, then the end of the batch."""
        racing = [racer for racer in self._batch if racer.fate == "racing"]
        for racer in racing:
            if len(racer.scores) == self.seeds:
                racer.fate = "finished"
        if self.races and self._round_is_over(racing):
            self._drop()
        if all(racer.fate != "racing" for racer in self._batch):
            self._tell_sampler()

    def _round_is_over(self, racing: Sequence[Racer]) -> bool:
        """Whether all that race have run the same seeds, and none a seed that another lacks."""
        return len({len(racer.scores) for racer in racing}) == 1

    def _drop(self) -> None:
        racing = np.array([racer.fate == "racing" for racer in self.racers])
        if racing.any():
            for row in np.flatnonzero(self._rule.drops(self.matrix(), racing)):
                self.racers[row].fate = "dropped"

    def _tell_sampler(self) -> None:
        for racer in self._batch:
            trial = self._trials[racer.proposal.number]
            if racer.fate == "finished":
                self._study.tell(trial, self._objectives(racer))
            elif racer.fate == "dropped":
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._told = len(self.racers)

    def _objectives(self, racer: Racer) -> list[float]:
        return [objective(racer.scores, name) for name in self._search.objectives]


def objective(scores: Mapping[int, Score], name: str) -> float:
    """Return one objective of a configuration that ran all its seeds."""
    if name == "macro_f1_sd":
        return float(np.std([score.macro_f1 for score in scores.values()], ddof=1))
    if name == "train_flops":
        return float(np.mean([score.train_flops for score in scores.values()]))
    return _mean(scores)


def _mean(scores: Mapping[int, Score]) -> float:
    return float(np.mean([scores[seed].macro_f1 for seed in sorted(scores)]))


def _create(
    name: str, objectives: Sequence[str], storage: optuna.storages.BaseStorage | None
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [up if each == "macro_f1" else down for each in objectives]
    return optuna.create_study(study_name=name, storage=storage, directions=directions)


def _sampler(search: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                # Of a batch, none is proposed where another one is already.
                return samplers.TPESampler(seed=seed, constant_liar=True)
            case "qmc":
                return samplers.QMCSampler(seed=search.study_seed, warn_independent_sampling=False)
            case "gp":
                return samplers.GPSampler(seed=seed)
            case "nsga2":
                return samplers.NSGAIISampler(seed=seed)
            case "grid" | "random":  # every point of a grid is given
                return samplers.RandomSampler(seed=seed)
