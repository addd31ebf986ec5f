"""What a command costs: user CPU, wall-clock and peak memory of a fresh process.

The peak that Linux reports for a process begins with the memory of the one that started it. So the
command is started by a small interpreter, this file run as a script, whatever the caller holds.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


@dataclass(frozen=True)
class Usage:
    """The cost of one process and of the children that it waited for."""

    user_seconds: float
    system_seconds: float
    wall_seconds: float
    peak_bytes: int  # largest resident set of any one process
    status: int  # exit status; negative: ended by this signal
    stopped: bool  # ended here, because it ran past its limit


def measure(command: Sequence[str], folder: Path, limit: float) -> Usage:
    """Run a command for at most ``limit`` seconds; what it prints goes to ``folder/log.txt``."""
    result = folder / "usage.json"
    launcher = [sys.executable, "-I", "-S", __file__, str(result), str(limit)]
    with (folder / "log.txt").open("wb") as log:
        subprocess.run([*launcher, *command], stdout=log, stderr=log, check=True)
    return Usage(**json.loads(result.read_text()))


def _launch(command: Sequence[str], limit: float) -> Usage:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    started = time.perf_counter()
    child = subprocess.Popen(command, start_new_session=True)
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        _, status, used = os.wait4(child.pid, 0)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    wall = time.perf_counter() - started
    costs = [used]
    with contextlib.suppress(ChildProcessError):
        while late.is_set():  # its orphans, which are ours now and were ended with it
            costs.append(os.wait3(0)[2])
    return Usage(
        user_seconds=sum(cost.ru_utime for cost in costs),
        system_seconds=sum(cost.ru_stime for cost in costs),
        wall_seconds=wall,
        peak_bytes=max(cost.ru_maxrss for cost in costs) * 1024,
        status=os.waitstatus_to_exitcode(status),
        stopped=late.is_set(),
    )


if __name__ == "__main__":
    usage = _launch(sys.argv[3:], float(sys.argv[2]))
    Path(sys.argv[1]).write_text(json.dumps(asdict(usage)))
