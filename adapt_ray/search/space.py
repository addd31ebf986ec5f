"""What a contender's search may propose: fields with ranges, some of them under conditions."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import optuna

from adapt_ray.config import Contender, Interval, Options, Range, Scalar, TrainingConfig
from adapt_ray.contenders import is_searched, searched, settings

Values = dict[str, Scalar]


def suggest(trial: optuna.Trial, space: Mapping[str, Range]) -> Values:
    """Ask a trial for a value of every field whose condition holds."""
    values: Values = {}
    for path, allowed in space.items():
        if is_searched(allowed, values):
            values[path] = _suggest(trial, path, allowed)
    return values


def grid(space: Mapping[str, Range]) -> list[Values]:
    """Return every point of a space of choices once, the last field varying fastest.

    Raises ValueError for an interval, which has no finite number of points.
    """
    sets = []
    for path, allowed in space.items():
        if isinstance(allowed, Interval):
            raise ValueError(f"{path!r} is an interval; a grid needs a list of choices")
        sets.append(choices(allowed))
    points: list[Values] = []
    for combination in product(*sets):
        point = searched(space, dict(zip(space, combination, strict=True)))
        if point not in points:
            points.append(point)
    return points


def choices(allowed: Options | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """Return the values of a list of choices, with or without a condition."""
    return allowed.choices if isinstance(allowed, Options) else allowed


def own_point(contender: Contender, training: TrainingConfig) -> Values:
    """Return a contender's own settings as a point of its space, or {} where they lie outside.

    They are tried first: a small search should not do worse than no search.
    """
    method, training = settings(contender, training, {}, "contender")
    own = {f"method.{name}": value for name, value in method} | {
        f"training.{name}": value for name, value in training
    }
    return within(own, contender.space) or {}


def within(values: Mapping[str, Any], space: Mapping[str, Range]) -> Values | None:
    """Return the fields of a space with the given values, or None where one lies outside."""
    point: Values = {}
    for path, allowed in space.items():
        if not is_searched(allowed, point):
            continue
        if path not in values or not _allows(allowed, values[path]):
            return None
        point[path] = values[path]
    return point


def _suggest(trial: optuna.Trial, path: str, allowed: Range) -> Scalar:
    if isinstance(allowed, Interval) and allowed.whole:
        return trial.suggest_int(path, int(allowed.low), int(allowed.high), log=allowed.log)
    if isinstance(allowed, Interval):
        return trial.suggest_float(path, allowed.low, allowed.high, log=allowed.log)
    found: Scalar = trial.suggest_categorical(path, choices(allowed))
    return found


def _allows(allowed: Range, value: Any) -> bool:
    if isinstance(allowed, Interval):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = not allowed.whole or (number and float(value).is_integer())
        return number and whole and bool(allowed.low <= value <= allowed.high)
    return value in choices(allowed)
