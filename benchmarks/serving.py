"""What the Serve application stands: its highest steady load, twice that, and a killed replica.

Needs an exported model, as `python jobs/finetune.py --data.task demo --export FOLDER` makes. The
client (`load.py`) is a process of its own on the same machine; every address is a loopback one.
"""

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import ray
from ray import serve

import section
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.distributed.serve import app
from adapt_ray.export import load, read_settings
from load import Answer

_P99_BOUND = 0.5  # seconds
_ANSWERED = 0.98  # of the offered requests, at least
_PATIENCE = 60.0  # seconds that a killed replica may take to come back
_STEPS = 3  # halvings of the step between a steady load and one that is not
_NOTE = (
    "One text a request, over HTTP, arrivals as a Poisson process, times from when a request was "
    "due. *Steady*: at least 98% of the requests due are answered within the time of the trial, "
    f"none is refused or fails, and p99 is at most {1000 * _P99_BOUND:.0f} ms, in one of two "
    "trials: what else runs on the machine disturbs, and never helps. Replicas, Serve's "
    "proxy and controller, and the client share the machine's cores; *client* is the client's part "
    "of one core."
)


@dataclass(frozen=True)
class Trial:
    """What one load gave."""

    rate: float  # offered, requests a second
    seconds: float
    answers: tuple[Answer, ...]
    client: float  # CPU of the client, as a share of one core
    start: float  # of the client, by the machine's monotonic clock

    @property
    def accepted(self) -> list[Answer]:
        """The answers with status 200."""
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def refused(self) -> int:
        """Answers with status 503."""
        return sum(answer.status == 503 for answer in self.answers)

    @property
    def failed(self) -> int:
        """Everything else: errors of the server, broken connections, no answer in time."""
        return len(self.answers) - len(self.accepted) - self.refused

    def quantile(self, q: float, status: int = 200) -> float:
        """Return a quantile of the seconds of answers with a status; NaN without any."""
        found = [answer.seconds for answer in self.answers if answer.status == status]
        return float(np.quantile(found, q)) if found else float("nan")

    @property
    def steady(self) -> bool:
        """Whether the load could go on for ever."""
        in_time = sum(a.due + a.seconds <= self.seconds + _P99_BOUND for a in self.accepted)
        whole = self.refused == 0 and self.failed == 0
        return (
            whole and in_time >= _ANSWERED * len(self.answers) and self.quantile(0.99) <= _P99_BOUND
        )


def tried_twice(offer: Callable[[float], Trial]) -> Callable[[float], Trial]:
    """Return an offer that is made again where it is not steady: neighbours disturb, never help."""

    def offer_again(rate: float) -> Trial:
        first = offer(rate)
        return first if first.steady else offer(rate)

    return offer_again


def highest_steady(offer: Callable[[float], Trial], start: float) -> Trial:
    """Return the highest steady load: doubled until it is not steady, then narrowed down.

    ValueError where even ``start`` is not steady.
    """
    best = offer(start)
    if not best.steady:
        raise ValueError(f"{start:g} requests a second are not steady; start lower")
    while (trial := offer(2 * best.rate)).steady:
        best = trial
    low, high = best.rate, 2 * best.rate
    for _ in range(_STEPS):
        trial = offer((low + high) / 2)
        if trial.steady:
            best, low = trial, trial.rate
        else:
            high = trial.rate
    return best


def confirmed(offer: Callable[[float], Trial], rate: float) -> Trial:
    """Return a steady trial at a rate, or at the first lower one, a fifth less each time."""
    while not (trial := offer(rate)).steady:
        rate *= 0.8
    return trial


def troubled_seconds(trial: Trial, since: float) -> float:
    """Return how long after ``since`` the last request came that failed or was late; 0 if none."""
    late = [a.due for a in trial.answers if a.status != 200 or a.seconds > _P99_BOUND]
    return max((due - since for due in late if due >= since), default=0.0)


class Bench:
    """The application on a local Ray, and the client beside it."""

    def __init__(self, options: argparse.Namespace, texts: Path) -> None:
        self._options = options
        self._texts = texts
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # A Ray of its own, whatever else runs on this machine.
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"model": options.model, "replicas": options.replicas}))
        self._url = f"http://127.0.0.1:{port}/"
        self._seed = 0

    def client(self, rate: float, seconds: float) -> "subprocess.Popen[str]":
        """Start the client."""
        self._seed += 1
        script = Path(__file__).with_name("load.py")
        command = [sys.executable, str(script), self._url, f"--texts={self._texts}",
                   f"--rate={rate}", f"--seconds={seconds}", f"--poisson={self._seed}"]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def offer(self, rate: float, seconds: float) -> Trial:
        """Offer a load and wait for all answers."""
        return show(trial_of(self.client(rate, seconds), rate, seconds))

    def replica_killed(self, rate: float, seconds: float) -> tuple[Trial, float, float]:
        """Kill one replica a quarter into a load.

        Returns the trial, when the kill was (seconds after the first request could be due), and
        the seconds until all replicas were there again.
        """
        client = self.client(rate, seconds)
        time.sleep(seconds / 4)
        killed = time.monotonic()
        os.kill(replica_processes()[0], signal.SIGKILL)
        noticed = False
        while time.monotonic() - killed < _PATIENCE:
            whole = self._running() == self._options.replicas
            if noticed and whole:
                break
            noticed = noticed or not whole
            time.sleep(0.05)
        back = time.monotonic() - killed
        trial = show(trial_of(client, rate, seconds))
        return trial, killed - trial.start, back

    def _running(self) -> int:
        states = serve.status().applications["default"].deployments["classifier"].replica_states
        return sum(count for state, count in states.items() if str(state) == "RUNNING")


def trial_of(client: "subprocess.Popen[str]", rate: float, seconds: float) -> Trial:
    """Read what a client prints."""
    printed, _ = client.communicate(timeout=seconds + 90)
    *answers, about = map(json.loads, printed.splitlines())
    found = tuple(Answer(**answer) for answer in answers)
    return Trial(rate, seconds, found, about["cpu"], about["start"])


def replica_processes() -> list[int]:
    """Return the process ids of the replicas that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::ServeReplica") and "classifier" in title:
            found.append(process.pid)
    return found


def show(trial: Trial) -> Trial:
    """Print a trial and return it."""
    print(f"{trial.rate:g} a second: {_cells(trial)}{'' if trial.steady else ', not steady'}",
          flush=True)  # fmt: skip
    return trial


def _cells(trial: Trial) -> str:
    return " | ".join(
        [
            f"{len(trial.answers):,} due",
            f"{len(trial.accepted):,} answered",
            f"{trial.refused:,} refused",
            f"{trial.failed:,} failed",
            f"p50 {1000 * trial.quantile(0.5):.0f} ms",
            f"p99 {1000 * trial.quantile(0.99):.0f} ms",
        ]
    )


_HEAD = (
    "| load | offered a second | due | answered | refused (503) | failed | p50 of the answered, ms "
    "| p99, ms | p99 of the refused, ms | client |",
    "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def _row(name: str, trial: Trial) -> str:
    refused = f"{1000 * trial.quantile(0.99, 503):.0f}" if trial.refused else ""
    figures = [
        name,
        f"{trial.rate:.0f}",
        f"{len(trial.answers):,}",
        f"{len(trial.accepted):,}",
        f"{trial.refused:,}",
        f"{trial.failed:,}",
        f"{1000 * trial.quantile(0.5):.0f}",
        f"{1000 * trial.quantile(0.99):.0f}",
        refused,
        f"{trial.client:.0%}",
    ]
    return f"| {' | '.join(figures)} |"


def _measured(options: argparse.Namespace, texts: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(list(texts)), encoding="utf-8")
        bench = Bench(options, path)
        bench.offer(options.start, 3)  # warms up
        short = tried_twice(lambda rate: bench.offer(rate, options.seconds))
        long = tried_twice(lambda rate: bench.offer(rate, 2 * options.seconds))
        best = confirmed(long, highest_steady(short, options.start).rate)
        twice = bench.offer(2 * best.rate, 2 * options.seconds)
        time.sleep(2)
        lost, killed_at, whole = bench.replica_killed(best.rate / 2, options.after_kill)
        serve.shutdown()
        ray.shutdown()
    rows = [
        _row("highest steady", best),
        _row("twice that", twice),
        _row("half of it, one replica killed", lost),
    ]
    after = (
        f"After the kill, {lost.failed + lost.refused:,} of {len(lost.answers):,} requests were "
        f"not answered with 200; the last request that failed or took longer than "
        f"{1000 * _P99_BOUND:.0f} ms was due {troubled_seconds(lost, killed_at):.1f} s after the "
        f"kill. All replicas were there again {whole:.1f} s after it."
    )
    return "\n".join([*_HEAD, *rows]) + f"\n\n{after}"


def main() -> None:
    """Measure, print, and write the section where asked."""
    options = _options()
    busy = psutil.getloadavg()[0]
    texts = list(demo_rows()["test"].texts)
    lengths = load(options.model).tokenizer.encode_texts(texts).lengths
    pretrained = Path(read_settings(Path(options.model)).model.name).name
    table = _measured(options, texts)
    print(table)
    if options.write:
        facts = section.provenance("ray", "torch", "transformers", "aiohttp")
        what = (
            f"{options.replicas} replicas of one thread each, {pretrained} in fp32; texts of the "
            f"demo, {lengths.mean():.0f} tokens on average, {lengths.max()} at most. The machine's "
            f"load average before the start was {busy:.1f}."
        )
        body = f"## Serving\n\n{facts}\n\n{what} {_NOTE}\n\n{table}"
        section.write("serving", body)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="an exported model")
    add("--replicas", type=int, default=2, help="copies of the model (default: 2)")
    add("--start", type=float, default=10, help="first requests a second (default: 10)")
    add("--seconds", type=float, default=6, help="of one trial (default: 6)")
    add("--after_kill", type=float, default=40, help="seconds of the load in which a replica is "
        "killed (default: 40)")  # fmt: skip
    add("--write", action="store_true", help="write the section of docs/BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
