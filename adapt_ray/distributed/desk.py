"""The desk where runs are ordered, taken by worker groups, and their results collected.

It is an actor beside the driver. It knows nothing of what a run is: work goes through as bytes, so
that the actor starts fast and stays small.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

RETRIES = 2  # work whose group was lost is handed out again so often from the same place

Result = dict[str, Any]  # what a worker returns, or {"error": reason}


@dataclass
class _Order:
    """A piece of work: who waits for it, and what came out.

    ``losses`` counts the groups that were lost with it since it was at ``place``: nodes that are
    taken away again and again are no reason to give up a run that gets on in between.
    """

    key: str
    work: bytes
    channels: list[str]
    losses: int = 0
    place: str = ""
    result: Result | None = None


@dataclass
class _Channel:
    """Results for one listener, in the order in which they came."""

    results: list[Result] = field(default_factory=list)
    finished: bool = False


class Desk:
    """Orders by key and results by channel; every method is awaited by callers anywhere.

    A group of workers takes one order at a time: all its workers call :meth:`take` with the same
    ``group`` and ``turn`` and get the same work, and none asks for the next turn's before all have
    this one's. When the group is lost, its order goes first to the next one that asks.
    """

    def __init__(self) -> None:
        self._orders: dict[str, _Order] = {}
        self._waiting: deque[_Order] = deque()
        self._taken: dict[str, tuple[int, _Order]] = {}  # by group: the turn, and its order
        self._channels: dict[str, _Channel] = {}
        self._idle_losses = 0  # groups lost before they took anything, since one took something
        self._broken: str | None = None  # why no group can be started
        self._closed = False
        self._changed = asyncio.Condition()

    async def order(self, channel: str, key: str, work: bytes) -> int:
        """Ask for work, whose result goes to ``channel``; return how many orders are open.

        Work of the same key is done once.
        """
        async with self._changed:
            known = self._orders.get(key)
            if known is None:
                known = self._orders[key] = _Order(key, work, [channel])
                self._waiting.append(known)
                if self._broken is not None:
                    self._refuse_all(self._broken)
            elif known.result is None:
                known.channels.append(channel)
            else:
                self._channel(channel).results.append(known.result)
            self._changed.notify_all()
            return len(self._waiting) + len(self._taken)

    async def post(self, channel: str, result: Result) -> None:
        """Put a result into a channel that no order gave."""
        async with self._changed:
            self._channel(channel).results.append(result)
            self._changed.notify_all()

    async def finish(self, channel: str) -> None:
        """Let a channel's listener go once it has heard what is there."""
        async with self._changed:
            self._channel(channel).finished = True
            self._changed.notify_all()

    async def result(self, channel: str, index: int) -> Result | None:
        """Return a channel's result by its position, waiting for it; None after the last one."""
        heard = self._channel(channel)
        async with self._changed:
            await self._changed.wait_for(lambda: index < len(heard.results) or heard.finished)
        return heard.results[index] if index < len(heard.results) else None

    async def take(self, group: str, turn: int) -> bytes | None:
        """Return the work of a group's turn, waiting for it; None when the desk is closed."""
        async with self._changed:
            self._idle_losses = 0
            await self._changed.wait_for(lambda: self._can_answer(group, turn))
            if self._closed:
                return None
            if group not in self._taken:
                self._taken[group] = turn, self._waiting.popleft()
            return self._taken[group][1].work

    async def begins(self, group: str, place: str) -> None:
        """Hear from where in its order a group goes on."""
        async with self._changed:
            order = self._taken[group][1]
            if order.place != place:
                order.place, order.losses = place, 0

    async def done(self, group: str, result: Result) -> None:
        """Take what a group made of its order."""
        async with self._changed:
            if group in self._taken:
                self._end(self._taken.pop(group)[1], result)

    async def lost(self, group: str, reason: str) -> bool:
        """Take back what a lost group was at; return whether another group should be started."""
        async with self._changed:
            taken = self._taken.pop(group, None)
            if taken is None:
                self._idle_losses += 1
            else:
                self._hand_back(taken[1], reason)
            if self._idle_losses > RETRIES and not self._taken:
                self._broken = reason
                self._refuse_all(reason)
            self._changed.notify_all()
        return self._broken is None and not self._closed

    async def close(self) -> None:
        """Let every group go home."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _can_answer(self, group: str, turn: int) -> bool:
        if group in self._taken:
            # Another turn: the first worker has not yet said what came out of the last one.
            return self._taken[group][0] == turn
        return bool(self._waiting) or self._closed

    def _refuse_all(self, reason: str) -> None:
        while self._waiting:
            self._end(self._waiting.popleft(), {"error": reason})

    def _hand_back(self, order: _Order, reason: str) -> None:
        order.losses += 1
        if order.losses > RETRIES:
            self._end(order, {"error": reason})
        else:
            self._waiting.appendleft(order)

    def _end(self, order: _Order, result: Result) -> None:
        order.result, order.work = result, b""
        if "error" in result:  # asked for again, it is tried again
            del self._orders[order.key]
        for channel in order.channels:
            self._channel(channel).results.append(result)
        self._changed.notify_all()

    def _channel(self, name: str) -> _Channel:
        return self._channels.setdefault(name, _Channel())
