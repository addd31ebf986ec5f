"""What every job's command line does around its work: decode, report errors, exit status."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from adapt_ray.config import Config, parse
from adapt_ray.errors import InputError, JobError

C = TypeVar("C", bound=Config)


def main(model: type[C], body: Callable[[C, bool], None]) -> int:
    """Run a job's ``body(config, dry_run)`` on the command line; return its exit status.

    0: done. 1: not all of it could be done. 2: the user's input is wrong. Both are told in one
    line; anything unexpected keeps its traceback and exits with 1.
    """
    prog = f"python {Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}"
    try:
        invocation = parse(model, sys.argv[1:], prog=prog)
        if invocation.dry_run:
            print(yaml.safe_dump(invocation.config.model_dump(mode="json"), sort_keys=False))
        body(invocation.config, invocation.dry_run)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished", file=sys.stderr)
        return 130
    return 0


def table(rows: Mapping[str, object]) -> str:
    """Return aligned ``name  value`` lines."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())
