"""The nodes of a cluster: asking all of them the same, and whether they share the storage."""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adapt_ray.beacon import Beacon, not_shared
from adapt_ray.errors import last_line

T = TypeVar("T")
_ANSWER_SECONDS = 120.0  # of the slowest node: a first task may start a process and import


def alive() -> dict[str, str]:
    """Return the address of every node that is there now, by its id."""
    return {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}


def on_every_node(
    function: Callable[[], T], seconds: float = _ANSWER_SECONDS
) -> tuple[dict[str, T], dict[str, str]]:
    """Call a function once on every node; it takes no CPU from the nodes' work.

    Returns what it returned by node, and why it did not by node. Nodes are named by address, two of
    the same address by address and id.
    """
    task: Any = ray.remote(lambda: function())
    nodes = alive()
    addresses = list(nodes.values())
    asked = {}
    for node, address in nodes.items():
        name = address if addresses.count(address) == 1 else f"{address} ({node[:8]})"
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()] = name
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    found: dict[str, T] = {}
    failed = {asked[reference]: f"did not answer within {seconds:.0f} s" for reference in silent}
    for reference in answered:
        try:
            found[asked[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            failed[asked[reference]] = f"could not answer: {last_line(error)}"
    return found, failed


def check_shared(beacon: Beacon) -> None:
    """Raise InputError, naming the nodes, unless all of them share the storage of a beacon."""
    found, failed = on_every_node(beacon.problem)
    problems = failed | {node: problem for node, problem in found.items() if problem}
    if problems:
        raise not_shared(beacon, problems)
