"""Figures of the report, drawn without a display, in colours that colour-blind readers tell apart.

Every function takes grouped data and returns a Figure; nothing is kept in global state.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from adapt_ray.report.drawing import (
    COLOURS,
    LOG_FROM,
    apart,
    explain,
    legend,
    plain,
    spread_out,
    styles_of,
    tidy,
)
from adapt_ray.report.groups import Arm
from adapt_ray.report.selections import SelectionMap
from adapt_ray.report.sizes import SizeLine
from adapt_ray.report.tokens import TokenFacts, TokenReport, points_to


def final_scores(arms: Sequence[Arm]) -> Figure:
    """Draw every run's test macro-F1, with each arm's mean and its 95% interval, best on top."""
    figure = Figure(figsize=(7, 1.2 + 0.55 * len(arms)), layout="constrained")
    axes = figure.subplots()
    styles = styles_of([arm.label for arm in arms])
    for row, arm in enumerate(arms):
        estimate, (colour, marker) = arm.estimate, styles[arm.label]
        offsets = row + 0.22 * spread_out(arm.values)
        axes.scatter(arm.values, offsets, s=26, color=colour, marker=marker, alpha=0.55, lw=0)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color="black", lw=1.6, zorder=3)
        if estimate.mean is not None:
            axes.plot(estimate.mean, row, "|", color="black", ms=16, mew=2, zorder=3)
    axes.set_yticks(range(len(arms)), [plain(arm.label) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("test macro-F1")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    explain(figure, "one point a seed; black: mean and its 95% interval")
    tidy(axes, "x")
    return figure


def cost_against_score(arms: Sequence[Arm]) -> Figure:
    """Draw mean test macro-F1 against the operations and the time of a run."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _cost_panel(left, arms, lambda arm: arm.flops and arm.flops / 1e12)
    _cost_panel(right, arms, lambda arm: arm.train_seconds)
    left.set_xlabel("training operations of a run (10¹² FLOP)")
    right.set_xlabel("training time of a run (s)")
    left.set_ylabel("test macro-F1")
    explain(figure, "mean over seeds and its 95% interval; top left is best")
    legend(figure, left)
    return figure


def learning_curves(curves: Mapping[str, Sequence[pa.Table]]) -> Figure:
    """Draw what was kept of every epoch: mean over runs, band from the lowest to the highest.

    ``curves`` maps a label to the CURVES_SCHEMA tables of its runs.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    styles = styles_of(list(curves))
    for axes, (column, name) in zip(panels, _CURVES.items(), strict=True):
        for label, tables in curves.items():
            _band(axes, label, tables, column, *styles[label])
        axes.set_ylabel(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        tidy(axes, "both")
    explain(figure, "line: mean over seeds; band: lowest to highest")
    legend(figure, panels[0])
    return figure


def scores_by_size(lines: Sequence[SizeLine]) -> Figure:
    """Draw test macro-F1 and accuracy against the number of training rows, one line a label."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = styles_of([line.label for line in lines])
    aside = np.linspace(-1, 1, len(lines)) if len(lines) > 1 else np.zeros(1)
    for line, shift in zip(lines, aside, strict=True):
        for axes, name in ((left, "f1"), (right, "accuracy")):
            _size_line(axes, line, name, 1 + 0.03 * shift, *styles[line.label])
    left.set_ylabel("test macro-F1")
    right.set_ylabel("test accuracy")
    sizes = sorted({point.train_rows for line in lines for point in line.points})
    for axes in (left, right):
        axes.set_xlabel("training rows (logarithmic)")
        axes.set_xscale("log")
        axes.set_xticks(apart(sizes), [f"{size:,}" for size in apart(sizes)])
        axes.xaxis.set_minor_locator(NullLocator())
        tidy(axes, "both")
    explain(figure, "line: mean over seeds; bar: lowest to highest; one test split throughout")
    legend(figure, left, right)
    return figure


_CURVES = {
    "dev_macro_f1": "dev macro-F1 (0 to 1)",
    "dev_accuracy": "dev accuracy (0 to 1)",
    "train_loss": "training loss (nats)",
    "seconds": "training time of the epoch (s)",
}


def selection_map(found: SelectionMap) -> Figure:
    """Draw dispersion, gradient norm, score and what trains, by layer and kind of module."""
    layers = sorted({module.layer for module in found.modules})
    kinds = list(dict.fromkeys(module.kind for module in found.modules))
    size = (2.6 + 0.85 * len(kinds), 3.2 + 0.42 * len(layers))
    figure = Figure(figsize=size, layout="constrained")
    grids = figure.subplots(2, 2, sharex=True, sharey=True)
    panels = {
        "dispersion D of the outputs (variance / |mean|)": "dispersion",
        "gradient norm G (mean over examples)": "gradient",
        found.score: "score",
    }
    for axes, (title, name) in zip(grids.flat, panels.items(), strict=False):
        values = {(m.layer, m.kind): float(getattr(m, name)) for m in found.modules}
        scale = _colour_scale(list(values.values())) if name != "score" else None
        image = axes.imshow(_grid(values, layers, kinds), cmap="viridis", norm=scale, **_CELLS)
        bar = figure.colorbar(image, ax=axes, pad=0.02, format=StrMethodFormatter("{x:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize="medium")
        _frame_selected(axes, found, layers, kinds)
    _training_panel(grids[1, 1], found, layers, kinds)
    for axes in grids.flat:
        axes.set_facecolor("0.8")  # a layer that lacks a kind
        axes.set_xticks(range(len(kinds)), [plain(kind.replace("_", " ")) for kind in kinds])
        axes.tick_params("x", rotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(layers)), map(str, layers))
    figure.supylabel("layer, from the embeddings up", fontsize="medium")
    parameters = sum(module.parameters for module in found.selected)
    explain(
        figure,
        f"{plain(found.label)}: trains the {len(found.selected)} framed of {len(found.modules)} "
        f"modules, {parameters / 1e6:.3g} M parameters ({found.trained_share:.1%} of the model), "
        f"with {found.flop_share:.0%} of full finetuning's operations",
    )
    return figure


def token_map(report: TokenReport) -> Figure:
    """Draw every task token by its support and its normalised perplexity, coloured by kind."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    styles = styles_of([token.kind for token in report.tokens])
    for (kind, told), tokens in _by_kind(report).items():
        colour, marker = styles[kind]
        face = colour if told else "none"
        at = [token.support for token in tokens], [token.perplexity for token in tokens]
        axes.scatter(*at, s=22, marker=marker, fc=face, ec=colour, lw=0.8, alpha=0.75)
    for kind, (colour, marker) in styles.items():
        axes.scatter([], [], color=colour, marker=marker, label=kind)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter(StrMethodFormatter("{x:g}"))
        scale.set_minor_formatter(NullFormatter())
    axes.set_xlabel("support (distinct training texts, logarithmic)")
    axes.set_ylabel("normalised perplexity (logarithmic)")
    explain(figure, "a mark a token; filled: points to a class; the lower, the closer its parts")
    tidy(axes, "both")
    legend(figure, axes)
    return figure


def _by_kind(report: TokenReport) -> dict[tuple[str, bool], list[TokenFacts]]:
    """Return the tokens by kind, and by whether they point to a class."""
    found: dict[tuple[str, bool], list[TokenFacts]] = defaultdict(list)
    for token in report.tokens:
        told = points_to(token, report.classes, report.totals) is not None
        found[token.kind, told].append(token)
    return found


_CELLS = {"origin": "lower", "aspect": "auto", "interpolation": "none"}
_STATES = {"no gradient": "white", "gradient passes": "#BBD8EC", "trains": COLOURS[0]}


def _training_panel(
    axes: Any, found: SelectionMap, layers: Sequence[int], kinds: Sequence[str]
) -> None:
    values = {(m.layer, m.kind): 2.0 if m.selected else float(m.reached) for m in found.modules}
    colours = ListedColormap(list(_STATES.values()))
    axes.imshow(_grid(values, layers, kinds), cmap=colours, vmin=0, vmax=2, **_CELLS)
    for count, line in ((len(kinds), axes.axvline), (len(layers), axes.axhline)):
        for between in range(1, count):
            line(between - 0.5, color="0.6", lw=0.6)
    axes.set_title("what a step computes", fontsize="medium")
    handles = [Patch(fc=colour, ec="0.6", label=name) for name, colour in _STATES.items()]
    axes.figure.legend(
        handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize="small"
    )


def _grid(
    values: Mapping[tuple[int, str], float], layers: Sequence[int], kinds: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return values by (layer, kind) as [n_layers, n_kinds]; what there is none of is masked."""
    rows = [[values.get((layer, kind), np.nan) for kind in kinds] for layer in layers]
    return np.ma.masked_invalid(rows)


def _frame_selected(
    axes: Any, found: SelectionMap, layers: Sequence[int], kinds: Sequence[str]
) -> None:
    for module in found.selected:
        column, row = kinds.index(module.kind), layers.index(module.layer)
        axes.add_patch(_frame(row, column))


def _cost_panel(axes: Any, arms: Sequence[Arm], cost: Callable[[Arm], float | None]) -> None:
    styles = styles_of([arm.label for arm in arms])
    for arm in arms:
        x, estimate, (colour, marker) = cost(arm), arm.estimate, styles[arm.label]
        if x is None or estimate.mean is None:
            continue
        bars = None
        if estimate.low is not None and estimate.high is not None:
            bars = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
        axes.errorbar(
            x,
            estimate.mean,
            bars,
            fmt=marker,
            color=colour,
            ms=8,
            capsize=3,
            label=plain(arm.label),
        )
    axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.05)
    tidy(axes, "both")


def _band(
    axes: Any, label: str, tables: Sequence[pa.Table], column: str, colour: str, marker: str
) -> None:
    by_epoch: dict[int, list[float]] = {}
    for table in tables:
        for row in table.to_pylist():
            if row[column] is not None and math.isfinite(row[column]):
                by_epoch.setdefault(row["epoch"], []).append(row[column])
    epochs = sorted(by_epoch)
    means = [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]
    axes.plot(epochs, means, color=colour, marker=marker, ms=4, label=plain(label))
    axes.fill_between(
        epochs,
        [min(by_epoch[epoch]) for epoch in epochs],
        [max(by_epoch[epoch]) for epoch in epochs],
        color=colour,
        alpha=0.18,
        lw=0,
    )


def _size_line(
    axes: Any, line: SizeLine, name: str, aside: float, colour: str, marker: str
) -> None:
    found = [(point.train_rows, getattr(point, name)) for point in line.points]
    rows = [(size * aside, values) for size, values in found if values]
    means = [sum(values) / len(values) for _, values in rows]
    bars = [
        [mean - min(values) for mean, (_, values) in zip(means, rows, strict=True)],
        [max(values) - mean for mean, (_, values) in zip(means, rows, strict=True)],
    ]
    sizes = [size for size, _ in rows]
    label = plain(line.label)
    axes.errorbar(
        sizes, means, bars, color=colour, marker=marker, ms=6, capsize=3, lw=1.4, label=label
    )


def _colour_scale(values: Sequence[float]) -> Normalize:
    low, high = min(values), max(values)
    return LogNorm(low, high) if low > 0 and high / low > LOG_FROM else Normalize(low, high)


def _frame(row: int, column: int) -> Rectangle:
    outlined = [withStroke(linewidth=2.6, foreground="black")]
    return Rectangle(
        (column - 0.44, row - 0.42),
        0.88,
        0.84,
        fill=False,
        ec="white",
        lw=1.2,
        path_effects=outlined,
    )
