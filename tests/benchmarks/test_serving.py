"""The rules of the serving benchmark: what is steady, and where the highest load lies."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import load
from load import Answer
from serving import Trial, confirmed, highest_steady, tried_twice, troubled_seconds


def trial(rate: float, answers: list[Answer], seconds: float = 10) -> Trial:
    return Trial(rate, seconds, tuple(answers), client=0.1, start=0.0)


def of(rate: float, *, late: int = 0, refused: int = 0, failed: int = 0) -> Trial:
    """Return a trial of a hundred requests."""
    fates = [(1.0, 200)] * late + [(0.01, 503)] * refused + [(0.01, 0)] * failed
    fates += [(0.01, 200)] * (100 - len(fates))
    return trial(rate, [Answer(i / 10, *fate) for i, fate in enumerate(fates)])


@pytest.mark.parametrize(
    ("found", "steady"),
    [
        (of(1), True),
        (of(1, late=2), False),  # p99
        (of(1, refused=1), False),
        (of(1, failed=1), False),
        (trial(1, [Answer(9.9, 0.2, 200)] * 100), True),
        (trial(1, [Answer(9.9, 5.0, 200)] * 100), False),  # answered after the end
    ],
)
def test_what_is_steady(found: Trial, steady: bool) -> None:
    assert found.steady == steady


@given(limit=st.floats(10, 5000))
def test_the_highest_steady_load_is_found_from_below(limit: float) -> None:
    offered = []

    def offer(rate: float) -> Trial:
        offered.append(rate)
        return of(rate, refused=0 if rate <= limit else 1)

    found = highest_steady(offer, 10)
    assert found.rate <= limit
    assert found.rate >= limit * 8 / 9 - 1e-9  # within an eighth of the last doubling
    assert max(offered) <= 2 * limit


def test_a_disturbed_trial_is_made_again() -> None:
    fates = iter([1, 0, 1, 1])
    offer = tried_twice(lambda rate: of(rate, refused=next(fates)))
    assert [offer(5).steady, offer(5).steady] == [True, False]


def test_a_load_that_is_not_steady_the_second_time_is_lowered() -> None:
    assert confirmed(lambda rate: of(rate, refused=rate > 75), 100).rate == pytest.approx(64)


def test_a_start_that_is_too_high_is_told() -> None:
    with pytest.raises(ValueError, match="start lower"):
        highest_steady(lambda rate: of(rate, refused=1), 10)


def test_the_time_until_all_is_well_again() -> None:
    answers = [Answer(1, 0.01, 0), Answer(5, 0.01, 200), Answer(6, 0.01, 0), Answer(8, 2.0, 200),
               Answer(9, 0.01, 200)]  # fmt: skip
    assert troubled_seconds(trial(1, answers), since=5.5) == pytest.approx(2.5)
    assert troubled_seconds(trial(1, answers), since=8.5) == 0


def test_the_client_asks_this_machine_alone_and_not_for_ever() -> None:
    load.check("http://127.0.0.1:8000/", 10, 10)
    load.check("http://[::1]:8000/", 10, 10)
    for url in ("http://10.0.0.1:8000/", "http://example.org/", "nowhere"):
        with pytest.raises(ValueError):  # noqa: PT011  a name is no address at all
            load.check(url, 10, 10)
    for rate, seconds in ((10, 1000), (1e6, 10), (0, 10)):
        with pytest.raises(ValueError, match="at most"):
            load.check("http://127.0.0.1/", rate, seconds)


def test_arrivals() -> None:
    assert load.due_times(4, 1, None) == [0, 0.25, 0.5, 0.75]
    drawn = load.due_times(100, 50, 3)
    assert drawn == load.due_times(100, 50, 3) != load.due_times(100, 50, 4)
    assert drawn == sorted(drawn)
    assert len(drawn) == 5000
    gaps = np.diff(drawn)  # exponential: mean and standard deviation agree
    assert 49 < drawn[-1] < 50
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(503 if body["texts"] == ["full"] else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/"
        found.shutdown()


def test_the_client_counts_what_comes_back(server: str) -> None:
    _, answers = asyncio.run(load.offer(server, ["fine", "full"], [0.0, 0.01, 0.02, 0.03]))
    assert [answer.status for answer in answers] == [200, 503, 200, 503]
    found = trial(1, answers)
    assert (len(found.accepted), found.refused, found.failed) == (2, 2, 0)
    _, lost = asyncio.run(load.offer("http://127.0.0.1:9/", ["a"], [0.0]))
    assert [answer.status for answer in lost] == [0]
