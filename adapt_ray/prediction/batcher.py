"""Requests that come one by one, computed together: what waits during a batch is the next.

No request waits for others that may come: a batch starts as soon as the one before is done, so
batches are small while there is little to do and grow with the load. Requests keep their order, and
one that is too large for the batch at hand begins the next.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class _Request(Generic[R]):
    texts: Sequence[str]
    answer: asyncio.Future[list[R]]

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))


class Batcher(Generic[R]):
    """Computes the texts of many requests in one thread, beside the event loop.

    ``compute`` gives one result a text. ``most`` are the characters of a batch; a request beyond it
    is a batch of its own. For one event loop.
    """

    def __init__(self, compute: Callable[[list[str]], Sequence[R]], most: int) -> None:
        self._compute = compute
        self._most = most
        self._waiting: deque[_Request[R]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._worker: asyncio.Task[None] | None = None

    async def answer(self, texts: Sequence[str]) -> list[R]:
        """Return one result for each text; what ``compute`` raises is raised here."""
        request = _Request[R](texts, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await request.answer

    async def _work(self) -> None:
        while batch := self._next():
            texts = [text for request in batch for text in request.texts]
            computed = self._thread.submit(self._compute, texts)
            await asyncio.wait([asyncio.wrap_future(computed)])
            self._deliver(batch, computed)

    def _next(self) -> list[_Request[R]]:
        """Take the requests of the next batch; one that nobody waits for any more is left out."""
        batch: list[_Request[R]] = []
        characters = 0
        while self._waiting:
            request = self._waiting[0]
            characters += request.characters
            if batch and characters > self._most:
                break
            self._waiting.popleft()
            if request.answer.done():
                characters -= request.characters
            else:
                batch.append(request)
        return batch

    @staticmethod
    def _deliver(batch: list[_Request[R]], computed: "Future[Sequence[R]]") -> None:
        error = computed.exception()
        start = 0
        for request in batch:
            stop = start + len(request.texts)
            if request.answer.done():
                pass  # its client has gone meanwhile
            elif error is not None:
                request.answer.set_exception(error)
            else:
                request.answer.set_result(list(computed.result()[start:stop]))
            start = stop
