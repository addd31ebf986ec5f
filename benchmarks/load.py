"""An open-loop client for loopback addresses: requests leave when they are due.

It never waits for answers before it asks again, so a server that falls behind is seen to do so; and
the time of an answer counts from when its request was due, not from when it could be sent. It runs
as a process of its own, for a bounded time and number of requests, and prints one JSON line an
answer and one about itself.
"""

import argparse
import asyncio
import ipaddress
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import numpy as np

MOST_SECONDS = 120.0
MOST_REQUESTS = 100_000
_TIMEOUT = 30.0  # seconds that an answer may take


@dataclass(frozen=True)
class Answer:
    """One request and what became of it."""

    due: float  # seconds after the start
    seconds: float  # from then to the answer
    status: int  # of HTTP; 0 where the connection broke or nothing came in time


def check(url: str, rate: float, seconds: float) -> None:
    """Raise ValueError for an address beyond this machine, or a load without bound."""
    host = urlsplit(url).hostname or ""
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is no loopback address; this client asks only this machine")
    if not 0 < seconds <= MOST_SECONDS or not 0 < rate * seconds <= MOST_REQUESTS:
        raise ValueError(f"{rate:g} a second for {seconds:g} s: at most {MOST_SECONDS:g} s and "
                         f"{MOST_REQUESTS} requests")  # fmt: skip


def due_times(rate: float, seconds: float, seed: int | None) -> list[float]:
    """Return when requests are due: evenly, or as a Poisson process drawn from a seed.

    Given how many a Poisson process has in some time, they are uniform in it.
    """
    count = round(rate * seconds)
    if seed is None:
        return [number / rate for number in range(count)]
    drawn = np.random.default_rng(seed).uniform(0, seconds, count)
    return [float(due) for due in np.sort(drawn)]


async def offer(url: str, texts: Sequence[str], due: Sequence[float]) -> tuple[float, list[Answer]]:
    """Send one text a request when it is due; return the start (monotonic) and the answers."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        start = time.monotonic()

        async def ask(at: float, text: str) -> Answer:
            try:
                async with session.post(url, json={"texts": [text]}) as response:
                    await response.read()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            return Answer(at, time.monotonic() - start - at, status)

        tasks = []
        for number, at in enumerate(due):
            delay = at - (time.monotonic() - start)
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(asyncio.create_task(ask(at, texts[number % len(texts)])))
        return start, list(await asyncio.gather(*tasks))


def main() -> None:
    """Offer a load and print what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--texts", type=Path, required=True, help="JSON file with a list of texts")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--poisson", type=int, metavar="SEED", help="seed of random arrivals")
    options = parser.parse_args()
    check(options.url, options.rate, options.seconds)
    texts = json.loads(options.texts.read_text(encoding="utf-8"))
    due = due_times(options.rate, options.seconds, options.poisson)
    started = time.monotonic()
    start, answers = asyncio.run(offer(options.url, texts, due))
    for answer in answers:
        print(json.dumps(asdict(answer)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (used.ru_utime + used.ru_stime) / (time.monotonic() - started)
    print(json.dumps({"cpu": cpu, "start": start}))


if __name__ == "__main__":
    main()
