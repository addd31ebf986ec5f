"""Progress of long work: a bar on a terminal, plain lines with time left elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished units of work; a context manager."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[Any] = tqdm(total=total, desc=label, unit=unit, disable=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, note: str = "") -> None:
        """Count one unit as done; ``note`` says what is known by now."""
        self._done += 1
        self._note = note
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update()
        now = time.monotonic()
        finished = self._done == self._total
        if self._bar.disable and (finished or now - self._last_line > _SECONDS_BETWEEN_LINES):
            self._last_line = now
            print(self._line(now - self._started), file=sys.stderr, flush=True)

    def write(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        tqdm.write(line, file=sys.stderr)

    def _line(self, seconds: float) -> str:
        left = seconds / self._done * (self._total - self._done)
        note = f", {self._note}" if self._note else ""
        return (
            f"{self._label}: {self._done}/{self._total} {self._unit}s{note}, {seconds:.0f} s, "
            f"about {left:.0f} s left"
        )
