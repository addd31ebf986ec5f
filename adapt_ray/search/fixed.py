"""Configurations that run all their seeds: a final comparison, or a stability job."""

from collections.abc import Iterator, Sequence

from adapt_ray.search.study import Proposal, Racer, Score


class FixedRuns:
    """Given configurations, each over given seeds; nothing is proposed and nothing dropped."""

    def __init__(self, runs: Sequence[tuple[str, Sequence[int]]]) -> None:
        """``runs``: name and seeds of each configuration."""
        self.racers = [Racer(Proposal(name, n, {})) for n, (name, _) in enumerate(runs)]
        self._seeds = [list(seeds) for _, seeds in runs]
        self._begun = self._handed_out = False

    @property
    def seeds(self) -> int:
        """Seeds of the configuration that has most."""
        return max(map(len, self._seeds))

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
        """Yield all runs, the configurations in turn, the first time."""
        if not self._handed_out:
            self._handed_out = True
            for place in range(self.seeds):
                for racer, seeds in zip(self.racers, self._seeds, strict=True):
                    if place < len(seeds):
                        yield racer.proposal, seeds[place]

    def tell(self, number: int, seed: int, score: Score) -> None:
        """Take the score of a run."""
        racer = self.racers[number]
        racer.scores[seed] = score
        if racer.fate == "racing" and len(racer.scores) == len(self._seeds[number]):
            racer.fate = "finished"

    def fail(self, number: int) -> None:
        """Note that a run of a configuration cannot be done; its other runs go on."""
        self.racers[number].fate = "failed"
