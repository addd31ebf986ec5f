"""Requests computed together, against one at a time."""

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.prediction.batcher import Batcher


class Upper:
    """Writes texts in capitals, and keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, texts: list[str]) -> list[str]:
        self.batches.append(texts)
        assert self.go.wait(10)
        if "bad" in texts:
            raise ValueError("a bad text")
        return [text.upper() for text in texts]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4), max_size=12),
    st.integers(1, 30),
)
def test_every_request_gets_its_own_and_batches_keep_the_order(
    requests: list[list[str]], most: int
) -> None:
    upper = Upper()

    async def ask() -> list[list[str]]:
        batcher = Batcher(upper, most)
        return list(await asyncio.gather(*(batcher.answer(texts) for texts in requests)))

    assert asyncio.run(ask()) == [[text.upper() for text in texts] for texts in requests]
    texts = [text for request in requests for text in request]
    assert [text for batch in upper.batches for text in batch] == texts
    lengths = {sum(map(len, request)) for request in requests}
    for batch in upper.batches:
        size = sum(map(len, batch))
        assert size <= most or size in lengths  # a request beyond the limit is alone


def test_what_waits_is_the_next_batch_and_the_loop_stays_free() -> None:
    upper = Upper()
    upper.go.clear()

    async def ask() -> None:
        batcher = Batcher(upper, 100)
        first = asyncio.create_task(batcher.answer(["one"]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.answer([f"t{i}"])) for i in range(5)]
        started = time.monotonic()
        await asyncio.sleep(0.05)  # the loop turns while the thread computes
        assert time.monotonic() - started < 1
        others[2].cancel()
        await asyncio.sleep(0)
        upper.go.set()
        assert await first == ["ONE"]
        done = await asyncio.gather(*others, return_exceptions=True)
        assert [type(answer) for answer in done].count(asyncio.CancelledError) == 1

    asyncio.run(ask())
    assert upper.batches == [["one"], ["t0", "t1", "t3", "t4"]]


def test_an_error_reaches_those_of_its_batch_alone() -> None:
    upper = Upper()

    async def ask() -> None:
        batcher = Batcher(upper, 100)
        with pytest.raises(ValueError, match="a bad text"):
            await batcher.answer(["bad"])
        assert await batcher.answer(["good"]) == ["GOOD"]

    asyncio.run(ask())
