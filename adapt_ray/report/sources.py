"""Runs that cross several sources of chance, and what each of them contributes.

A study that varies ``training.initialisation_seed``, ``data_order_seed``, ``dropout_seed`` or
``data.resplit_seed`` beside the run seed records complete tables of scores; they are found here by
what the runs say of themselves.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from adapt_ray.config import STREAM_SEEDS
from adapt_ray.records import RunRecord
from adapt_ray.report.contributions import Contribution, contributions
from adapt_ray.report.groups import settings

SPLIT = "train-test split"
_NAMES = {"initialisation": "initialisation", "data_order": "data order", "dropout": "dropout"}
_FIELDS = {f"training.{name}": _NAMES[stream] for stream, name in STREAM_SEEDS.items()}


@dataclass(frozen=True)
class Crossing:
    """A complete table of one configuration's runs, one axis a source of chance."""

    task: str
    label: str
    sources: tuple[str, ...]
    scores: npt.NDArray[np.float64]  # test macro-F1, [levels of each source]
    runs: tuple[RunRecord, ...]  # in the order of the flattened table
    left_out: int  # runs that found no place in a complete table

    def contributions(self) -> list[Contribution]:
        """Return the variance that each source and each interaction adds to a run's score."""
        return contributions(self.scores, self.sources)


def crossings(runs: Iterable[RunRecord]) -> list[Crossing]:
    """Return the tables that cross at least two sources, in the order of tasks and names.

    Runs without a test score, of a search, or at other seeds than the rest of their table leave
    with all that shares their level of the last source, so that what remains is complete.
    """
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.phase != "search" and run.test_macro_f1 is not None:
            groups[_configured(run)].append(run)
    found = (_crossing(members) for _, members in sorted(groups.items(), key=lambda item: item[0]))
    return [one for one in found if one is not None]


def _configured(run: RunRecord) -> tuple[str, ...]:
    """Return what runs of one table have in common: all but seeds, split and what follows it.

    Which streams have a seed of their own is part of it: other runs have other sources. Splits of
    one corpus have about as many rows each.
    """
    fields = settings(run)
    held = [name for name in _FIELDS if name in fields]
    rest = {name: value for name, value in fields.items() if name not in _FIELDS}
    sizes = [
        round(10 * math.log(rows)) if rows else None for rows in (run.train_rows, run.test_rows)
    ]
    same = [run.world_size, sizes, held, rest]
    return run.task, run.contender, run.model, json.dumps(same, sort_keys=True)


def _crossing(runs: Sequence[RunRecord]) -> Crossing | None:
    first = settings(runs[0])
    held = [name for name in _FIELDS if name in first]
    names = (SPLIT, *(_FIELDS[name] for name in held), _rest(held))
    cells = {_levels(run, held): run for run in runs}
    axes = [sorted({cell[i] for cell in cells}) for i in range(len(names))]
    varied = [i for i, levels in enumerate(axes) if len(levels) > 1]
    axes[-1] = [
        level for level in axes[-1] if all((*cell, level) in cells for cell in product(*axes[:-1]))
    ]
    if len(varied) < 2 or len(cells) < len(runs) or min(len(axes[i]) for i in varied) < 2:
        return None
    table = [cells[cell] for cell in product(*axes)]
    scores = np.array([run.test_macro_f1 for run in table], np.float64)
    return Crossing(
        task=runs[0].task,
        label=f"{runs[0].contender} ({runs[0].model})",
        sources=tuple(names[i] for i in varied),
        scores=scores.reshape([len(axes[i]) for i in varied]),
        runs=tuple(table),
        left_out=len(runs) - len(table),
    )


def _levels(run: RunRecord, held: Sequence[str]) -> tuple[str | int, ...]:
    """Return where a run stands on each axis: its split, its streams' seeds, its run seed."""
    found = settings(run)
    split = run.test_digest or run.corpus_digest
    return (split, *(int(found[name]) for name in held), run.seed)


def _rest(held: Sequence[str]) -> str:
    """Say what the run seed still decides."""
    left = [name for field, name in _FIELDS.items() if field not in held]
    if len(left) == len(_FIELDS):
        return "run seed"
    return " and ".join(left) or "run seed (nothing)"
