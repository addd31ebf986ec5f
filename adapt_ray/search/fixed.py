"""Configurations that run all their seeds: a final comparison, or a stability job."""

from collections.abc import Iterator, Sequence

from adapt_ray.search.study import Proposal, Racer, Score


class FixedRuns:
    """Given configurations over given seeds; nothing is proposed and nothing dropped."""

    def __init__(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        self.racers = [Racer(Proposal(name, number, {})) for number, name in enumerate(names)]
        self._seeds = seeds
        self._begun = self._handed_out = False

    @property
    def seeds(self) -> int:
        """Seeds of a configuration."""
        return len(self._seeds)

    @property
    def wanted(self) -> int:
        """Configurations in all."""
        return len(self.racers)

    @property
    def is_done(self) -> bool:
        """Whether every configuration has met its fate."""
        return all(racer.fate != "racing" for racer in self.racers)

    def begin(self) -> list[Proposal]:
        """Return all configurations, the first time."""
        found = [] if self._begun else [racer.proposal for racer in self.racers]
        self._begun = True
        return found

    def runs(self) -> Iterator[tuple[Proposal, int]]:
        """Yield all runs, seed after seed, the first time."""
        if not self._handed_out:
            self._handed_out = True
            for seed in self._seeds:
                for racer in self.racers:
                    yield racer.proposal, seed

    def tell(self, number: int, seed: int, score: Score) -> None:
        """Take the score of a run."""
        racer = self.racers[number]
        racer.scores[seed] = score
        if racer.fate == "racing" and len(racer.scores) == len(self._seeds):
            racer.fate = "finished"

    def fail(self, number: int) -> None:
        """Note that a run of a configuration cannot be done; its other runs go on."""
        self.racers[number].fate = "failed"
