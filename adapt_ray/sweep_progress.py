"""What a sweep is at: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

_DONE, _OPEN = "\u25cf", "\u25cb"  # a seed that ran, one that did not
_MOST_DOTS = 20


class SweepProgress:
    """Follows configurations and their seeds; a context manager.

    ``configurations`` of ``seeds`` each will be tried at most, fewer seeds of those that a race
    drops. Every finished run and every decision is a line of its own.
    """

    def __init__(
        self, phase: str, configurations: int, seeds: int, *, console: Console | None = None
    ) -> None:
        self._phase = phase
        self._configurations = configurations
        self._seeds = seeds
        self._racing: dict[str, list[float]] = {}
        self._ended: list[int] = []  # seeds run by each configuration that is through
        self._best: tuple[float, str] | None = None
        self._runs = 0  # of this launch
        self._started = time.monotonic()
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def began(self, label: str, known: Sequence[float]) -> None:
        """Take up a configuration with the scores that were recorded before."""
        self._racing[label] = list(known)
        self._refresh()

    def scored(self, label: str, seed: int, score: float) -> None:
        """Tell a finished run."""
        self._runs += 1
        scores = self._racing[label]
        scores.append(score)
        self.note(f"{label} seed {seed}: dev macro-F1 {score:.3f}, mean so far {_mean(scores):.3f}")

    def ended(self, label: str, fate: str, error: str | None = None) -> None:
        """Tell what became of a configuration."""
        scores = self._racing.pop(label)
        self._ended.append(len(scores))
        said = f"{label} {fate}"
        if scores:
            seeds = "1 seed" if len(scores) == 1 else f"{len(scores)} seeds"
            said += f" after {seeds}, mean {_mean(scores):.3f}"
        if fate == "finished" and (self._best is None or _mean(scores) > self._best[0]):
            self._best = _mean(scores), label
        self.note(said if error is None else f"{said}: {error}")

    def note(self, line: str) -> None:
        """Say something; where there is no live table, with how far the sweep is."""
        if self._live.is_started:
            self._console.print(escape(line), highlight=False)
            self._refresh()
        else:
            print(f"{self._phase}: {line} [{self.summary()}]", file=sys.stderr, flush=True)

    def summary(self) -> str:
        """Return how far the sweep is, what is best and how long the rest will take."""
        parts = [f"{len(self._ended)} of {self._configurations} configurations"]
        if self._best is not None:
            parts.append(f"best {self._best[1]} {self._best[0]:.3f}")
        parts.append(f"{_duration(time.monotonic() - self._started)} passed")
        left = self.seconds_left()
        return ", ".join(parts if left is None else [*parts, f"about {_duration(left)} left"])

    def seconds_left(self) -> float | None:
        """Return an estimate for the rest, as many seeds each as those that are through had."""
        if not self._runs:
            return None
        each = sum(self._ended) / len(self._ended) if self._ended else self._seeds
        left = (self._configurations - len(self._ended)) * each
        left -= sum(min(len(scores), each) for scores in self._racing.values())
        return max(0.0, left) * (time.monotonic() - self._started) / self._runs

    def _refresh(self) -> None:
        if self._live.is_started:
            self._live.update(Group(self._table(), escape(f"{self._phase}: {self.summary()}")))

    def _table(self) -> Table:
        table = Table("configuration", "seeds", "mean dev macro-F1", box=None)
        for label, scores in self._racing.items():
            ran = f"{len(scores)} of {self._seeds}"
            if self._seeds <= _MOST_DOTS:
                ran = _DONE * len(scores) + _OPEN * (self._seeds - len(scores))
            table.add_row(escape(label), ran, f"{_mean(scores):.3f}" if scores else "")
        return table


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _duration(seconds: float) -> str:
    """Return seconds, minutes or hours, whichever reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
