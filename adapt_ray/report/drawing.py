"""What all figures share: colours, marks, labels, scales, legends, and how they are kept.

Figures are drawn without a display and keep nothing in global state. Colour-blind readers can tell
the colours and marks apart.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.fs as pafs
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from adapt_ray.artifacts import write_whole

# Okabe and Ito's palette, its yellow left out because it is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
SCORES = "viridis_r"  # of scores: the best are the darkest, and stand out on white
DPI = 150
LOG_FROM = 20.0  # values that span more than this factor get a logarithmic scale
_LONGEST_LABEL = 32
_MOST_TICKS = 6
_WIDEST_TICK = 5  # characters


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; a reader sees the old file or the whole new one."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_whole(pafs.LocalFileSystem(), str(path.absolute()), buffer.getvalue())


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, its text drawn as shapes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "adapt_ray"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def styles_of(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each label: alphabetic, so that all figures agree.

    The pair repeats only after all combinations.
    """
    return {
        label: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, label in enumerate(sorted(set(labels)))
    }


def spread_out(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return offsets in [-1, 1] that keep equal scores apart, the same in every drawing."""
    return np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(len(values))


def plain(label: str, longest: int = _LONGEST_LABEL) -> str:
    """Return a label that matplotlib prints as it is: no mathematics, and not hidden."""
    short = label if len(label) <= longest else label[: longest - 1] + "…"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def explain(figure: Figure, words: str) -> None:
    """Put a line above a figure that says what its marks are."""
    figure.suptitle(words, fontsize="small")


def legend(figure: Figure, *panels: Any) -> None:
    """Put one legend for all panels below them, every label once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False
        )


def tidy(axes: Any, grid: str) -> None:
    """Take away what is no data, and draw a pale grid."""
    axes.grid(axis=grid, color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def is_number(value: Any) -> bool:
    """Whether a value has a place on a scale of numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether numbers span so much that only a logarithmic scale keeps them apart."""
    return min(values) > 0 and max(values) / min(values) > LOG_FROM


def scale(axes: Any, values: Sequence[Any]) -> Callable[[Any], float]:
    """Set up the x axis for these values; return how a value is placed on it."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values):
        names = sorted({str(value) for value in values})
        axes.set_xticks(range(len(names)), map(plain, names))
        return lambda value: names.index(str(value))
    if is_logarithmic(numbers):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    ticks = sorted(set(numbers))
    labels = [f"{tick:g}" for tick in ticks]
    # Choices are short numbers and few; values drawn from an interval would run into each other.
    if len(ticks) <= _MOST_TICKS and max(map(len, labels)) <= _WIDEST_TICK:
        axes.set_xticks(ticks, labels)
        axes.xaxis.set_minor_locator(NullLocator())
    return float


def apart(sizes: Sequence[int]) -> list[int]:
    """Return the sizes whose labels do not run into each other on a logarithmic scale."""
    least = (sizes[-1] / sizes[0]) ** (1 / _MOST_TICKS) if sizes[0] < sizes[-1] else 1.0
    kept = [sizes[-1]]
    for size in reversed(sizes):
        if size * least <= kept[-1]:
            kept.append(size)
    return kept[::-1]
