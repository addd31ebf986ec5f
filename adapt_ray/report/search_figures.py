"""Figures of a search: what was tried, what it gave, and when the race dropped it.

Every function takes searched configurations and returns a Figure, or None where there is nothing
that a figure would show.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adapt_ray.report.drawing import (
    COLOURS,
    SCORES,
    explain,
    is_logarithmic,
    is_number,
    legend,
    plain,
    scale,
    styles_of,
    tidy,
)
from adapt_ray.report.groups import Configuration, outcomes
from adapt_ray.report.importance import Importance
from adapt_ray.report.pareto import pareto_front
from adapt_ray.report.wording import MISSING, setting

_PALE = 0.3
_FEW = 5  # values that an upright axis names one by one


def search_scores(configurations: Sequence[Configuration]) -> Figure | None:
    """Draw mean dev macro-F1 against every searched field, or None when nothing was searched.

    Lines join configurations that differ in the panel's field alone, as those of a grid do.
    """
    judged = _judged(configurations)
    names = _fields(judged)
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.7 + 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        _search_panel(axes, name, judged)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean dev macro-F1")
    dropped = ", pale: ran fewer seeds" if any(found.dropped for found in judged) else ""
    chosen = ", ringed: chosen" if any(found.chosen for found in judged) else ""
    explain(figure, f"a point a configuration, its 95% interval over seeds{dropped}{chosen}")
    legend(figure, *grid.flat[: len(names)])
    return figure


def parallel_coordinates(configurations: Sequence[Configuration]) -> Figure | None:
    """Draw each configuration of one contender as a line through its values to its dev score.

    None below two configurations or two searched fields.
    """
    judged = _judged(configurations)
    names = _fields(judged)
    if len(judged) < 2 or len(names) < 2:
        return None
    figure = Figure(figsize=(2.0 + 1.7 * len(names), 4.4), layout="constrained")
    axes = figure.subplots()
    scales = [_Scale.of([f.settings[n] for f in judged if n in f.settings]) for n in names]
    scores = [found.estimate.mean or 0.0 for found in judged]
    scales.append(_Scale.of(scores))
    complete = [found.estimate.mean or 0.0 for found in judged if not found.dropped]
    norm, extend = _colours(scores, complete)
    colours: Any = ScalarMappable(norm, SCORES)
    for found, score in sorted(zip(judged, scores, strict=True), key=lambda pair: pair[1]):
        values = [*(found.settings.get(name) for name in names), score]
        heights = [one.place(value) for one, value in zip(scales, values, strict=True)]
        strength, width = (_PALE, 1.0) if found.dropped else (0.95, 1.8)
        style: dict[str, Any] = {"alpha": strength, "lw": width, "marker": "o", "ms": 3.5}
        axes.plot(range(len(scales)), heights, color=colours.to_rgba(score), **style)
    _upright_axes(axes, [*(name.rpartition(".")[2] for name in names), "dev macro-F1"], scales)
    figure.colorbar(colours, ax=axes, pad=0.06, extend=extend, label="mean dev macro-F1")
    dropped = "; pale: ran fewer seeds" if any(found.dropped for found in judged) else ""
    explain(figure, f"{plain(judged[0].contender)}: a line a configuration{dropped}")
    return figure


def importances(found: Sequence[Importance]) -> Figure:
    """Draw how much each searched field decides whether a configuration is among the best."""
    figure = Figure(figsize=(7, 1.5 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(found))
    axes.barh(rows, [one.share for one in found], height=0.6, color=COLOURS[0])
    for row, one in enumerate(found):
        axes.plot([one.by_chance] * 2, [row - 0.42, row + 0.42], color="black", lw=2)
    axes.set_yticks(rows, [plain(one.name.rpartition(".")[2]) for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("importance (PED-ANOVA; the bars sum to 1)")
    explain(figure, "black: what 95% of shuffled scores stay below; shorter bars show nothing")
    tidy(axes, "x")
    return figure


def trade_offs(configurations: Sequence[Configuration]) -> Figure | None:
    """Draw mean dev macro-F1 against FLOPs and against its standard deviation over seeds.

    Filled marks are on the Pareto front of all three; each panel's line joins the front of its own
    two. None below two configurations that ran all their seeds, two at the least.
    """
    found = outcomes(configurations)
    if len(found) < 2:
        return None
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    points = np.array([point for _, point in found]) / (1, 0.01, 1e12)
    front = set(pareto_front(points))
    styles = styles_of([one.contender for one, _ in found])
    for contender, (colour, marker) in styles.items():
        panels[0].scatter([], [], color=colour, marker=marker, label=plain(contender))
    for axes, column in zip(panels, (2, 1), strict=True):
        for number, ((one, _), point) in enumerate(zip(found, points, strict=True)):
            at = point[column], point[0]
            _mark(axes, one, at, *styles[one.contender], filled=number in front)
        joined = points[pareto_front(points[:, (0, column)])]
        joined = joined[joined[:, column].argsort()]
        axes.plot(joined[:, column], joined[:, 0], color="0.6", lw=1, ds="steps-post", zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        tidy(axes, "both")
    panels[0].set_xlabel("training operations of a run (10¹² FLOP)")
    panels[1].set_xlabel("standard deviation over seeds (points of F1)")
    panels[0].set_ylabel("mean dev macro-F1")
    explain(
        figure,
        "top left is best; filled: no other is as good in F1, spread and operations and better in "
        "one of them; number: rank",
    )
    legend(figure, panels[0])
    return figure


def race(configurations: Sequence[Configuration]) -> Figure | None:
    """Draw which seeds each configuration of one contender ran; None when none was dropped."""
    if not any(found.dropped for found in configurations):
        return None
    seeds = sorted({run.seed for found in configurations for run in found.runs})
    cells = np.full((len(configurations), len(seeds)), np.nan)
    lost = []
    for row, found in enumerate(configurations):
        for run in found.runs:
            cells[row, seeds.index(run.seed)] = run.judged()
            if run.status != "ok":
                lost.append((seeds.index(run.seed), row))
    size = (4.6 + 0.3 * len(seeds), 1.6 + 0.26 * len(configurations))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    complete = [run.judged() for f in configurations if not f.dropped for run in f.runs]
    norm, extend = _colours(cells[~np.isnan(cells)].tolist(), complete)
    image = axes.imshow(cells, SCORES, norm, aspect="auto")
    _separate(axes, *cells.shape)
    for at in lost:
        axes.text(*at, "x", ha="center", va="center", color=COLOURS[1], weight="bold")
    axes.set_xticks(range(len(seeds)), map(str, seeds))
    names = _fields(configurations)
    labels = [_row_label(found, names) for found in configurations]
    axes.set_yticks(range(len(configurations)), labels, fontsize="small")
    axes.set_ylabel(plain(", ".join(["rank", *(name.rpartition(".")[2] for name in names)]), 60))
    axes.set_xlabel("seed")
    figure.colorbar(image, ax=axes, extend=extend, aspect=30, label="dev macro-F1")
    ran = int((~np.isnan(cells)).sum())
    share = f"{ran} of {cells.size} seed-runs ({ran / cells.size:.0%})"
    failed = "; x: failed" if lost else ""
    explain(figure, f"{plain(configurations[0].contender)}: {share}; white: not run{failed}")
    return figure


@dataclass(frozen=True)
class _Scale:
    """One upright axis of parallel coordinates: where values stand on it, from 0 to 1."""

    place: Callable[[Any], float]  # NaN for a field that a configuration lacks
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, values: Sequence[Any]) -> "_Scale":
        """Return the scale that holds all these values."""
        if not all(map(is_number, values)):
            names = sorted({str(value) for value in values})
            step = 1 / max(1, len(names) - 1)
            return cls(
                lambda v: math.nan if v is None else names.index(str(v)) * step,
                [(number * step, plain(name, 12)) for number, name in enumerate(names)],
            )
        curve = math.log if is_logarithmic(values) else float
        low, high = curve(min(values)), curve(max(values))

        def place(value: Any) -> float:
            if value is None:
                return math.nan
            return (curve(value) - low) / (high - low) if high > low else 0.5

        few = sorted(set(values)) if len(set(values)) <= _FEW else [min(values), max(values)]
        return cls(place, [(place(value), setting(value)) for value in few])


def _search_panel(axes: Any, name: str, configurations: Sequence[Configuration]) -> None:
    styles = styles_of([found.contender for found in configurations])
    here = [found for found in configurations if name in found.settings]
    place = scale(axes, [found.settings[name] for found in here])
    for found in here:
        colour, marker = styles[found.contender]
        x, estimate = place(found.settings[name]), found.estimate
        if not found.dropped and estimate.low is not None and estimate.high is not None:
            axes.plot([x, x], [estimate.low, estimate.high], color=colour, lw=1, alpha=0.6)
        style: dict[str, Any] = {"alpha": _PALE if found.dropped else 0.9, "lw": 0}
        label = plain(found.contender)
        axes.scatter(x, estimate.mean, color=colour, marker=marker, label=label, **style)
        if found.chosen:
            axes.scatter(x, estimate.mean, s=130, facecolors="none", edgecolors="black")
    for group in _differ_only_in(name, here):
        line = [(place(found.settings[name]), found.estimate.mean) for found in group]
        axes.plot(*zip(*line, strict=True), color=styles[group[0].contender][0], lw=0.8, zorder=1)
    axes.set_xlabel(plain(name))
    tidy(axes, "both")


def _differ_only_in(
    name: str, configurations: Sequence[Configuration]
) -> list[list[Configuration]]:
    """Return groups of configurations that agree in every other field, by rising value of this."""
    groups: dict[str, list[Configuration]] = defaultdict(list)
    for found in configurations:
        if is_number(found.settings[name]) and not found.dropped:
            others = {field: v for field, v in found.settings.items() if field != name}
            key = json.dumps([found.contender, others], sort_keys=True)
            groups[key].append(found)
    ordered = (sorted(group, key=lambda one: one.settings[name]) for group in groups.values())
    return [group for group in ordered if len(group) > 1]


def _mark(
    axes: Any,
    found: Configuration,
    at: tuple[float, float],
    colour: str,
    marker: str,
    *,
    filled: bool,
) -> None:
    face = {"color": colour} if filled else {"facecolors": "none", "edgecolors": colour}
    axes.scatter(*at, marker=marker, s=42 if filled else 26, **face)
    if filled:
        offset = {"xytext": (5, 4), "textcoords": "offset points"}
        axes.annotate(str(found.rank), at, **offset, fontsize="small", color=colour)


def _upright_axes(axes: Any, names: Sequence[str], scales: Sequence[_Scale]) -> None:
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for at, one in enumerate(scales):
        axes.axvline(at, color="0.4", lw=1, zorder=0)
        for height, label in one.ticks:
            style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": "small"}
            axes.text(at - 0.04, height, label, bbox=box, zorder=4, **style)
    axes.set_xticks(range(len(names)), [plain(name, 16) for name in names])
    axes.set_yticks([])
    axes.set_xlim(-0.45, len(names) - 0.85)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[:].set_visible(False)


def _separate(axes: Any, rows: int, columns: int) -> None:
    """Draw white lines between the cells of an image."""
    for between in range(1, columns):
        axes.axvline(between - 0.5, color="white", lw=1.5)
    for between in range(1, rows):
        axes.axhline(between - 0.5, color="white", lw=1.5)


def _row_label(found: Configuration, names: Sequence[str]) -> str:
    values = (setting(found.settings[n]) if n in found.settings else MISSING for n in names)
    return plain(", ".join([f"{found.rank}{' chosen' if found.chosen else ''}", *values]), 48)


def _colours(scores: Sequence[float], complete: Sequence[float]) -> tuple[Normalize, str]:
    """Return colours that tell the complete ones' scores apart, and where others lie outside."""
    low, high = min(complete), max(scores)
    return Normalize(low, high), "min" if min(scores) < low else "neither"


def _judged(configurations: Sequence[Configuration]) -> list[Configuration]:
    return [found for found in configurations if found.estimate.mean is not None]


def _fields(configurations: Sequence[Configuration]) -> list[str]:
    return list(dict.fromkeys(name for found in configurations for name in found.settings))
