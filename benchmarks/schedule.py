"""How long the partitions of a mining job take on more workers than were there to measure them."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

_TASKS_PER_WORKER = (1, 2, 4, 8)


@dataclass(frozen=True)
class Item:
    """A first item: what is known of its search before, and what it cost."""

    tokens: int  # its positions in the corpus, which partitions are balanced by
    seconds: float  # of its search
    pieces: tuple[float, ...] = ()  # seconds of the parts of its two-item split, where measured
    root: float = 0.0  # seconds that every such part pays on top, to find the second items


@dataclass(frozen=True)
class Expected:
    """The best of several numbers of tasks for a number of workers."""

    seconds: float
    tasks: int


def expected(items: Sequence[Item], fixed: float, workers: int, *, split: bool) -> Expected:
    """Return the time of a search on some workers.

    ``fixed`` is what every task pays before it searches. Items are packed into tasks by their
    tokens, as the job does before it knows what they cost; the heaviest tasks by that measure start
    first. With ``split``, an item of more tokens than a task should have becomes several tasks.
    """
    options = (
        Expected(makespan(tasks, workers), len(tasks))
        for per_worker in _TASKS_PER_WORKER
        for tasks in [_tasks(items, fixed, per_worker * workers, split)]
    )
    return min(options, key=lambda option: option.seconds)


def _tasks(items: Sequence[Item], fixed: float, wanted: int, split: bool) -> list[float]:
    """Return the costs of about ``wanted`` tasks in the order in which they start."""
    share = sum(item.tokens for item in items) / wanted
    whole = []
    tasks: list[tuple[float, float]] = []  # tokens, seconds
    for item in items:
        parts = min(len(item.pieces), math.ceil(item.tokens / share)) if split else 1
        if parts < 2:
            whole.append(item)
            continue
        for piece in packed(item.pieces, parts):
            seconds = sum(item.pieces[i] for i in piece)
            tasks.append((item.tokens / parts, fixed + item.root + seconds))
    bins = packed([item.tokens for item in whole], max(1, wanted - len(tasks)))
    for members in bins:
        tokens = sum(whole[i].tokens for i in members)
        tasks.append((tokens, fixed + sum(whole[i].seconds for i in members)))
    return [seconds for _, seconds in sorted(tasks, key=lambda task: -task[0])]


def packed(weights: Sequence[float], bins: int) -> list[list[int]]:
    """Put each weight, heaviest first, into the lightest bin; return the bins that are not empty.

    This is the longest-processing-time rule (Graham 1969): its fullest bin is at most 4/3 - 1/(3n)
    times as full as the best packing's.
    """
    loads = [(0.0, number) for number in range(bins)]
    members: list[list[int]] = [[] for _ in loads]
    for index in sorted(range(len(weights)), key=lambda i: -weights[i]):
        load, number = heapq.heappop(loads)
        members[number].append(index)
        heapq.heappush(loads, (load + weights[index], number))
    return [group for group in members if group]


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last task ends if each, in this order, goes to the first free worker."""
    free = [0.0] * workers
    for cost in seconds:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent b of the power law value ~ size^b from the first to the last point."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
