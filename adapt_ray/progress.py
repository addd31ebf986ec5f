"""Progress of long work: a bar on a terminal, plain lines elsewhere, with the time left on both."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished units of work; a context manager.

    ``done`` of the ``total`` units were finished before. ``cost`` is what the others cost together,
    in any measure; the time left is estimated from the costs of those that are done. Without it,
    every unit costs the same.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, done: int = 0, cost: float | None = None
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._cost = total - done if cost is None else cost
        self._done = done
        self._spent = 0.0
        self._note = ""
        self._started = self._last_line = time.monotonic()
        shape = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s, {elapsed}{postfix}"
        self._bar: tqdm[Any] = tqdm(
            total=total, initial=done, desc=label, unit=unit, disable=None, bar_format=shape
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, note: str = "", cost: float = 1.0) -> None:
        """Count one unit as done; ``note`` says what is known by now."""
        self._done += 1
        self._spent += cost
        self._note = f", {note}" if note else ""
        now = time.monotonic()
        seconds = now - self._started
        left = f"about {seconds / self._spent * (self._cost - self._spent):.0f} s left"
        self._bar.set_postfix_str(f"{left}{self._note}", refresh=False)
        self._bar.update()
        finished = self._done == self._total
        if self._bar.disable and (finished or now - self._last_line > _SECONDS_BETWEEN_LINES):
            self._last_line = now
            line = f"{self._label}: {self._done}/{self._total} {self._unit}s{self._note}"
            print(f"{line}, {seconds:.0f} s, {left}", file=sys.stderr, flush=True)

    def write(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        tqdm.write(line, file=sys.stderr)
