"""What every job's command line does around its work: decode, report errors, exit status."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TypeVar

import yaml

from adapt_ray.config import Config, parse
from adapt_ray.errors import InputError, JobError, one_line

C = TypeVar("C", bound=Config)
WAITING = "waiting for Ray"  # name of threads that only the end of the process ends


def main(model: type[C], body: Callable[[C, bool], None], prog: str | None = None) -> int:
    """Run a job's ``body(config, dry_run)`` on the command line; return its exit status.

    0: done. 1: not all of it could be done. 2: the user's input is wrong. Both are told in one
    line; anything unexpected keeps its traceback and exits with 1. 130 and 143: interrupted and
    stopped, as by Ctrl-C, ``ray job stop`` or a batch system that wants its node back.
    """
    status = _run(model, body, prog or _prog())
    if still_waiting():
        # They would have Ray end the process, with a status of its own.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def still_waiting() -> bool:
    """Return whether threads wait for Ray although their job is over."""
    return any(thread.name == WAITING for thread in threading.enumerate())


def _prog() -> str:
    return f"python {Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}"


def _run(model: type[C], body: Callable[[C, bool], None], prog: str) -> int:
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop)
    try:
        invocation = parse(model, sys.argv[1:], prog=prog)
        if invocation.dry_run:
            print(yaml.safe_dump(invocation.config.model_dump(mode="json"), sort_keys=False))
        body(invocation.config, invocation.dry_run)
    except InputError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        what, status = ("stopped", 143) if stop.came else ("interrupted", 130)
        print(f"{what}; the same command goes on from what is finished", file=sys.stderr)
        return status
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


class _Stop:
    """Lets SIGTERM end a job as Ctrl-C does; waiting for Ray, nothing else is heard."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.came:  # once is enough: cleaning up is under way
            self.came = True
            raise KeyboardInterrupt


def table(rows: Mapping[str, object]) -> str:
    """Return aligned ``name  value`` lines."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())
