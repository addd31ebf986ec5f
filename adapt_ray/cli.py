"""What every job's command line does around its work: decode, report errors, exit status."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

import psutil
import yaml

from adapt_ray.config import Config, parse
from adapt_ray.errors import InputError, JobError, disk_problem, one_line

C = TypeVar("C", bound=Config)


def main(model: type[C], body: Callable[[C, bool], None], prog: str | None = None) -> int:
    """Run a job's ``body(config, dry_run)`` on the command line; return its exit status.

    0: done. 1: not all of it could be done. 2: the user's input is wrong. Both are told in one
    line; anything unexpected keeps its traceback and exits with 1. 130 and 143: interrupted and
    stopped, as by Ctrl-C, ``ray job stop`` or a batch system that wants its node back.
    """
    global _command
    _command = _Command()
    status = _run(model, body, prog or _prog())
    at_once, _command = _command.at_once, None
    if at_once:
        _end_children()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class _Command:
    """What :func:`main` runs at present."""

    at_once = False


_command: _Command | None = None


def end_at_once() -> bool:
    """Have the process end without another word once its error is told.

    For what cannot be ended in an orderly way, such as threads inside Ray's calls, which would end
    the process with a status of their own. Returns False where no job's command line is being run.
    """
    if _command is not None:
        _command.at_once = True
    return _command is not None


def _end_children() -> None:
    """Ask child processes to end: of a local Ray, some would look for the others for a minute."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def answer_early(model: type[Config], module: str, prog: str | None = None) -> None:
    """Answer ``--help`` and refuse wrong arguments of a script before its slow imports.

    ``module`` is the caller's ``__name__``: nothing happens in a module that is imported.
    """
    if module == "__main__":
        try:
            parse(model, sys.argv[1:], prog=prog or _prog())
        except InputError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            raise SystemExit(2) from None


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
    except OSError as error:
        problem = disk_problem(str(error))
        if problem is None:
            raise
        print(f"error: {one_line(problem)}", file=sys.stderr)
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
