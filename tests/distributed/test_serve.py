"""The Serve application over HTTP: the classifier's answers, limits, and what is too much."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import serve

import adapt_ray
from adapt_ray.distributed.serve import app
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from tests.distributed.exported import NAMES, export_tiny

# As they come from a command line.
LIMITS = {"max_texts": "40", "max_characters": "30000", "max_bytes": "1000000"}
LONG = "the order arrived broken and nobody answers " * 300


class Answering:
    """A running application."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str = "", method: str = "GET") -> tuple[int, Any]:
        return self._ask(urllib.request.Request(self.url + path, method=method))

    def post(self, body: bytes) -> tuple[int, Any]:
        return self._ask(urllib.request.Request(self.url, body))

    def classify(self, texts: list[str]) -> tuple[int, Any]:
        return self.post(json.dumps({"texts": texts}).encode())

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, json.loads(content) if content.startswith(b"{") else content


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    return export_tiny(tmp_path_factory.mktemp("exported") / "model", tiny_model)


@pytest.fixture(scope="module")
def running(session: Session, model: Path) -> Iterator[Answering]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = {"model": str(model), "max_ongoing": "2", "max_queued": "2", **LIMITS}
    serve.run(app(arguments))
    yield Answering(f"http://127.0.0.1:{port}/")
    serve.shutdown()


@pytest.mark.ray
def test_it_answers_as_the_classifier(running: Answering, model: Path) -> None:
    texts = ["The order came late.", "The screen is broken, I want my money back.", "Thanks"] * 9
    status, found = running.classify(texts)
    assert status == 200
    expected = adapt_ray.load(model).predict(texts)
    assert tuple(found["labels"]) == expected.labels
    assert found["classes"] == list(NAMES)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)


@pytest.mark.ray
def test_it_says_what_it_is_and_refuses_the_rest(running: Answering) -> None:
    assert running.get("health") == (200, {"status": "ok"})
    status, about = running.get()
    assert status == 200
    assert about["classes"] == list(NAMES)
    assert about["limits"] == {"texts": 40, "characters": 30000, "bytes": 1000000}
    assert len(about["model"]) == 20
    for path, method, expected in (("nowhere", "GET", 404), ("health", "DELETE", 405)):
        status, content = running.get(path, method)
        assert (status, set(content)) == (expected, {"error"})
    status, content = running.classify(["a"] * 41)
    assert (status, content) == (413, {"error": "41 texts; a request may hold 40"})
    status, content = running.post(b"{")
    assert status == 422
    status, content = running.post(b" " * 1_000_001)
    assert (status, content) == (413, {"error": "the request holds more than 1,000,000 bytes"})


@pytest.mark.ray
def test_too_many_requests_are_refused_at_once_and_the_others_answered(running: Answering) -> None:
    """A replica takes two and two wait: of twenty slow ones at a time, most get 503."""
    seconds: dict[int, list[float]] = {}
    lock = threading.Lock()

    def ask(_: int) -> int:
        started = time.monotonic()
        status, _ = running.classify([LONG] * 30)
        with lock:
            seconds.setdefault(status, []).append(time.monotonic() - started)
        return status

    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(pool.map(ask, range(20)))
    assert set(statuses) == {200, 503}
    assert statuses[200] >= 4
    assert max(seconds[503]) < max(seconds[200])
    assert running.get("health") == (200, {"status": "ok"})
    assert running.classify(["one more"])[0] == 200


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "model"),
        ({"model": "/nowhere"}, "no folder '/nowhere'"),
        ({"model": "m", "replica": "2"}, "unknown field 'replica' .*did you mean 'replicas'"),
        ({"model": "m", "replicas": "two"}, "replicas is 'two'"),
        ({"model": "m", "max_queued": "-2"}, "max_queued"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(
    arguments: dict[str, str], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as told:
        app(arguments)
    assert "\n" not in str(told.value)
