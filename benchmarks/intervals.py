"""How often intervals of a variance ratio hold the truth, by simulation.

python benchmarks/intervals.py --repetitions 4000 --write

Scores of two methods over ten seeds, independent or paired by seed, of four shapes. The shapes are
monotone functions of normal variables, so that pairs of any shape have the same rank correlation.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

import section
from adapt_ray.report import bootstrap
from adapt_ray.report.statistics import CONFIDENCE

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]

CORRELATION = 0.5  # of the normal variables behind paired scores
RESAMPLES = 1999
TASKS = 5  # of the pooled interval
_TAILS = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])

SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "normal": lambda z: z,
    "heavy tails (t, 5 degrees)": lambda z: stats.t.ppf(stats.norm.cdf(z), 5),
    "skewed (negative log-normal, 0.5)": lambda z: -np.exp(z / 2),
    "one in ten collapses by 3 sd": lambda z: z - 3.0 * (z < stats.norm.ppf(0.1)),
}


@dataclass
class Tally:
    """Intervals of one kind: of the log ratio, whose truth is 0."""

    ends: list[Ends] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """Share of the intervals that hold the truth."""
        return float(np.mean([low <= 0 <= high for low, high in self.ends]))

    @property
    def power(self) -> float:
        """Share that leaves out equality where one variance is half of the other.

        Every interval moves with the logarithm of the scale, so no second simulation is needed.
        """
        return float(np.mean([not low <= np.log(2) <= high for low, high in self.ends]))

    @property
    def widths(self) -> tuple[float, float]:
        """Median and 90th percentile of high / low."""
        factors = [np.exp(high - low) for low, high in self.ends]
        middle, wide = np.quantile(factors, [0.5, 0.9])
        return float(middle), float(wide)


def intervals(
    x: Floats, y: Floats, rng: np.random.Generator, *, paired: bool
) -> Iterator[tuple[str, Ends]]:
    """Yield the name and the ends of every interval of log(Var(x) / Var(y)); x and y are [n]."""
    n = len(x)
    ratio = float(np.log(x.var(ddof=1) / y.var(ddof=1)))
    half = float(np.log(stats.f.ppf(_TAILS[1], n - 1, n - 1)))
    yield "F", (ratio - half, ratio + half)
    if paired:
        half = pitman_morgan_half_width(x, y)
        yield "Pitman-Morgan inverted", (ratio - half, ratio + half)
    error = float(bootstrap.jackknife_error(x[None], y[None], paired=paired)[0])
    of_x = rng.integers(n, size=(RESAMPLES, n))
    of_y = of_x if paired else rng.integers(n, size=(RESAMPLES, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = np.log(x[of_x].var(1, ddof=1) / y[of_y].var(1, ddof=1))
    replicates = replicates[np.isfinite(replicates)]
    found = bootstrap.percentile(ratio, replicates)
    yield "bootstrap, percentile", (found.low, found.high)
    yield "bootstrap, BCa", bca(ratio, replicates, _influence(x, y, paired=paired))
    half = float(stats.t.ppf(_TAILS[1], (n if paired else 2 * n - 1) - 1)) * error
    yield "jackknife, t", (ratio - half, ratio + half)
    symmetric = bootstrap.log_variance_ratio([(x, y)], paired=paired, resamples=RESAMPLES)
    assert symmetric is not None
    yield "bootstrap, studentised", (symmetric.low, symmetric.high)


def pitman_morgan_half_width(x: Floats, y: Floats) -> float:
    """Return the half width of log ratios that the Pitman-Morgan test does not reject at 5%."""
    n, r = len(x), float(np.corrcoef(x, y)[0, 1])
    k = 1 + 2 * (1 - r**2) * float(stats.t.ppf(_TAILS[1], n - 2)) ** 2 / (n - 2)
    return float(np.log(k + np.sqrt(k**2 - 1)))


def bca(estimate: float, replicates: Floats, influence: Floats) -> Ends:
    """Return the bias-corrected and accelerated interval (Efron 1987).

    ``influence`` holds what each value adds to the estimate, by the jackknife.
    """
    below = np.clip((replicates < estimate).mean(), 0.5 / len(replicates), 1)
    bias = stats.norm.ppf(min(float(below), 1 - 0.5 / len(replicates)))
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    z = bias + stats.norm.ppf(_TAILS)
    low, high = np.quantile(replicates, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _influence(x: Floats, y: Floats, *, paired: bool) -> Floats:
    without = [
        np.array([np.log(np.delete(v, i).var(ddof=1)) for i in range(len(v))]) for v in (x, y)
    ]
    if paired:
        left = without[0] - without[1]
        return np.asarray(left.mean() - left)
    return np.concatenate([without[0].mean() - without[0], without[1] - without[1].mean()])


def draw(shape: str, n: int, rng: np.random.Generator, *, paired: bool) -> tuple[Floats, Floats]:
    """Return scores of two methods [n] that vary equally."""
    z = rng.normal(size=(2, n))
    if paired:
        z[1] = CORRELATION * z[0] + np.sqrt(1 - CORRELATION**2) * z[1]
    x, y = SHAPES[shape](z)
    return x, y


def simulate(shape: str, n: int, repetitions: int, *, paired: bool) -> dict[str, Tally]:
    """Return what every interval did; the pooled one is of :data:`TASKS` tasks at a time."""
    rng = np.random.default_rng(n)
    found: dict[str, Tally] = defaultdict(Tally)
    tasks = []
    for _ in range(repetitions):
        x, y = draw(shape, n, rng, paired=paired)
        tasks.append((x, y))
        for name, ends in intervals(x, y, rng, paired=paired):
            found[name].ends.append(ends)
        if len(tasks) == TASKS:
            pooled = bootstrap.log_variance_ratio(tasks, paired=paired, resamples=RESAMPLES)
            assert pooled is not None
            found[f"studentised, pooled over {TASKS} tasks"].ends.append((pooled.low, pooled.high))
            tasks = []
    return found


def table(n: int, repetitions: int) -> str:
    """Return the simulated coverage as Markdown."""
    lines = [
        "| scores | interval | independent: coverage | notices a halving | high / low: median, 90% "
        "| paired: coverage | notices a halving | high / low: median, 90% |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for shape in SHAPES:
        apart = simulate(shape, n, repetitions, paired=False)
        together = simulate(shape, n, repetitions, paired=True)
        for name in together:
            cells = [_cells(found.get(name)) for found in (apart, together)]
            lines.append(f"| {shape} | {name} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _cells(tally: Tally | None) -> str:
    if tally is None:
        return "- | - | -"
    middle, wide = tally.widths
    return f"{tally.coverage:.3f} | {tally.power:.2f} | {middle:.3g}, {wide:.3g}"


def main() -> None:
    """Simulate and print; with ``--write``, put the section into docs/BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = table(arguments.seeds, arguments.repetitions)
    error = 1.96 * np.sqrt(0.95 * 0.05 / arguments.repetitions)
    text = (
        f"## Intervals of a variance ratio at {arguments.seeds} seeds\n\n"
        f"{section.provenance('numpy', 'scipy')}\n\n"
        "How often nominal 95% intervals of Var(a) / Var(b) hold the truth: "
        f"{arguments.repetitions} repetitions (95% of the time a coverage is within {error:.3f} "
        f"at 0.95; of pooled ones, a {TASKS}th as many, within {error * np.sqrt(TASKS):.3f}), "
        f"{RESAMPLES} resamples. Paired "
        f"scores are functions of normal variables with correlation {CORRELATION}. `notices a "
        "halving`: leaves out 1 where one variance is half of the other. `studentised` is the "
        "symmetric bootstrap interval of the log ratio with jackknife errors, which the report "
        f"uses.\n\n{found}\n"
    )
    if arguments.write:
        section.write("intervals", text)


if __name__ == "__main__":
    main()
