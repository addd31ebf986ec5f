"""Racing over seeds against the full sweep: rules on simulated and on recorded scores.

Every rule sees the same numbers. A search proposes configurations in batches; those of a batch run
their seeds side by side, and later batches are held against the finished ones too. The full sweep
runs all seeds of all configurations and takes the highest mean.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import special

import section
from adapt_ray.records import RecordStore, run_records
from adapt_ray.report.groups import configurations
from adapt_ray.search.racing import BoolArray, EmpiricalBayes, FloatArray, IntArray, Rule

SEEDS = 10
SEED_SD = 0.015
TOLERANCE = 0.005  # what counts as good: a true mean within half a point of the best
_CHUNK = 500  # races at once
_RECORDED = Path(__file__).parent / "recorded"
_COLUMNS = ("configuration", "settings", "seed", "dev_macro_f1")


@dataclass(frozen=True)
class Setting:
    """What is simulated; standard deviations are fractions of macro-F1."""

    configurations: int
    sd: float  # of the configurations' true means
    correlation: float  # of two configurations' scores with the same seed
    kind: Literal["random", "later better", "collapses"] = "random"

    def __str__(self) -> str:
        """Name the setting in a table."""
        extra = "" if self.kind == "random" else f", {self.kind}"
        return (
            f"{self.configurations} configurations, sd {100 * self.sd:g}, "
            f"correlation {self.correlation:g}{extra}"
        )


SETTINGS = [
    *(Setting(n, sd, rho) for n in (30, 12) for sd in (0.01, 0.02) for rho in (0.0, 0.5)),
    Setting(30, 0.01, 0.5, "later better"),
    Setting(30, 0.01, 0.5, "collapses"),
]


def simulate(setting: Setting, races: int, rng: np.random.Generator) -> tuple[FloatArray, ...]:
    """Return true means [races, configurations] and scores [races, configurations, seeds].

    Later better: after the first third, proposals come from a normal one standard deviation higher
    and 0.6 as wide. Collapses: 2% of the runs lose 30 points.
    """
    z = rng.normal(size=(races, setting.configurations))
    if setting.kind == "later better":
        start = setting.configurations // 3
        z[:, start:] = 1 + 0.6 * z[:, start:]
    means = 0.75 + setting.sd * z
    common = rng.normal(size=(races, 1, SEEDS)) * np.sqrt(setting.correlation)
    own = rng.normal(size=(*z.shape, SEEDS)) * np.sqrt(1 - setting.correlation)
    scores = means[..., None] + SEED_SD * (common + own)
    if setting.kind == "collapses":
        scores = scores - 0.3 * (rng.random(scores.shape) < 0.02)
    return means, scores


@dataclass(frozen=True)
class PairedT:
    """Drops by the one-sided paired t test against the leader, from the second seed on."""

    level: float

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        """Return which to drop; see `Rule.drops`."""
        return _dropped(scores, racing, self._p, self.level)

    def _p(self, lag: FloatArray, n: IntArray) -> FloatArray:
        mean = np.nansum(lag, axis=-1) / np.maximum(n, 1)
        squares = np.nansum((lag - mean[..., None]) ** 2, axis=-1)
        se = np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1))
        p = special.stdtr(np.maximum(n - 1, 1), -mean / np.maximum(se, 1e-12))
        return np.where(n > 1, p, 1.0)


@dataclass(frozen=True)
class Wilcoxon:
    """Drops by the exact one-sided signed-rank test against the leader (no ties)."""

    level: float

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        """Return which to drop; see `Rule.drops`."""
        return _dropped(scores, racing, self._p, self.level)

    def _p(self, lag: FloatArray, n: IntArray) -> FloatArray:
        ranks = np.argsort(np.argsort(np.abs(lag), axis=-1), axis=-1) + 1  # NaN last
        against = np.sum(np.where(lag <= 0, ranks, 0), axis=-1)
        sizes = range(lag.shape[-1] + 1)
        tails = np.stack([_signed_rank_tail(size, int(against.max()) + 1) for size in sizes])
        return np.asarray(tails[n, against])


@dataclass(frozen=True)
class Halving:
    """Keeps the better half after 1, 2, 4 and 8 seeds: of the batch and the best finished one."""

    def drops(self, scores: FloatArray, racing: BoolArray) -> BoolArray:
        """Return which to drop; see `Rule.drops`."""
        n = np.max(np.where(racing, np.sum(~np.isnan(scores), axis=-1), 0), axis=-1)
        first = np.arange(scores.shape[-1]) < n[..., None]
        so_far = np.sum(np.where(first[..., None, :], scores, 0.0), axis=-1)
        finished = ~np.isnan(scores[..., -1])
        champion = np.argmax(np.where(finished, scores.mean(axis=-1), -np.inf), axis=-1)
        rivals = racing | (finished & (np.arange(scores.shape[-2]) == champion[..., None]))
        order = np.argsort(-np.where(rivals, so_far, -np.inf), axis=-1)
        rank = np.argsort(order, axis=-1)
        kept = (rivals.sum(axis=-1) + 1) // 2
        rung = np.isin(n, (1, 2, 4, 8))
        return np.asarray(racing & rung[..., None] & (rank >= kept[..., None]))


RULES: Mapping[str, Rule] = {
    "empirical Bayes": EmpiricalBayes(),
    "paired t, p < 0.2": PairedT(0.2),
    "paired t, p < 0.1": PairedT(0.1),
    "paired t, p < 0.05": PairedT(0.05),
    "Wilcoxon, p < 0.05": Wilcoxon(0.05),
    "halving": Halving(),
}


def _dropped(
    scores: FloatArray,
    racing: BoolArray,
    p: Callable[[FloatArray, IntArray], FloatArray],
    level: float,
) -> BoolArray:
    """Drop what a paired test puts behind the leader.

    ``p`` takes by how much the leader is ahead, seed by seed, and the number of shared seeds. The
    leader has the highest mean so far of those that race or finished.
    """
    seen = ~np.isnan(scores)
    means = np.where(seen, scores, 0.0).sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)
    standing = np.where(racing | seen.all(axis=-1), means, -np.inf)
    leader = np.argmax(standing, axis=-1)[..., None]
    order = np.argsort(~racing, axis=-1, kind="stable")[..., : racing.sum(axis=-1).max()]
    ours = np.take_along_axis(scores, order[..., None], -2)
    lag = np.take_along_axis(scores, leader[..., None], -2) - ours
    found = np.zeros_like(racing)
    below = p(lag, np.sum(~np.isnan(lag), axis=-1)) < level
    np.put_along_axis(found, order, below & (order != leader), -1)
    return racing & found


def _signed_rank_tail(n: int, size: int) -> FloatArray:
    """Return P(W <= w) for w < size, W the sum of the ranks of n that got a minus sign."""
    ways = np.zeros(max(size, n * (n + 1) // 2 + 1))
    ways[0] = 1
    for rank in range(1, n + 1):
        ways[rank:] = ways[rank:] + ways[:-rank]
    return np.asarray(np.cumsum(ways)[:size] / 2**n)


def race(rule: Rule, scores: FloatArray, batch: int) -> tuple[BoolArray, FloatArray]:
    """Return what came to its last seed and the share of seed-runs used, each race by itself."""
    races, rows, seeds = scores.shape
    known = np.full_like(scores, np.nan)
    kept = np.ones((races, rows), bool)
    for start in range(0, rows, batch):
        stop = min(rows, start + batch)
        for seed in range(seeds):
            runs = kept[:, start:stop]
            known[:, start:stop, seed] = np.where(runs, scores[:, start:stop, seed], np.nan)
            active = np.flatnonzero(runs.any(axis=1))
            if seed < seeds - 1 and stop > 1 and active.size:
                racing = np.zeros((active.size, stop), bool)
                racing[:, start:] = runs[active]
                kept[active, :stop] &= ~rule.drops(known[active, :stop], racing)
    return kept, np.mean(~np.isnan(known), axis=(1, 2))


@dataclass(frozen=True)
class Outcome:
    """What came of every race and of the full sweep on the same numbers, each [races]."""

    full_good: FloatArray
    race_good: FloatArray
    regret: FloatArray  # the best true mean less that of the race's winner
    used: FloatArray
    winner_dropped: FloatArray  # the full sweep's
    best_dropped: FloatArray  # the truly best

    @property
    def loss(self) -> tuple[float, float]:
        """Lost probability of a good winner and its upper 95% bound (one-sided, paired)."""
        lost = self.full_good - self.race_good
        error = lost.std(ddof=1) / np.sqrt(lost.size)
        return float(lost.mean()), float(lost.mean() + special.ndtri(0.95) * error)


def judge(means: FloatArray, scores: FloatArray, kept: BoolArray, used: FloatArray) -> Outcome:
    """Compare what a race found with the truth and with the full sweep."""
    judged = scores.mean(axis=-1)
    full, best = np.argmax(judged, axis=-1), np.argmax(means, axis=-1)
    won = np.argmax(np.where(kept, judged, -np.inf), axis=-1)
    each = np.arange(len(means))
    top = means[each, best]
    return Outcome(
        full_good=(means[each, full] >= top - TOLERANCE).astype(float),
        race_good=(means[each, won] >= top - TOLERANCE).astype(float),
        regret=top - means[each, won],
        used=used,
        winner_dropped=(~kept[each, full]).astype(float),
        best_dropped=(~kept[each, best]).astype(float),
    )


def outcomes(
    draw: Callable[[int, np.random.Generator], tuple[FloatArray, ...]],
    rules: Mapping[str, Rule],
    batches: Sequence[int],
    races: int,
    seed: int,
) -> dict[tuple[str, int], Outcome]:
    """Race every rule with every batch size on the same numbers, drawn in chunks."""
    parts: dict[tuple[str, int], list[Outcome]] = {}
    for chunk, start in enumerate(range(0, races, _CHUNK)):
        means, scores = draw(min(_CHUNK, races - start), np.random.default_rng([seed, chunk]))
        for name, rule in rules.items():
            for batch in batches:
                found = judge(means, scores, *race(rule, scores, batch))
                parts.setdefault((name, batch), []).append(found)
    return {key: _joined(found) for key, found in parts.items()}


def _joined(parts: Sequence[Outcome]) -> Outcome:
    names = [field.name for field in fields(Outcome)]
    return Outcome(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Recorded:
    """The scores of a sweep that ran every seed of every configuration."""

    label: str  # <task>_<contender>
    settings: tuple[str, ...]  # JSON, one a configuration
    seeds: tuple[int, ...]
    scores: FloatArray  # [configurations, seeds]

    def draw(self, races: int, rng: np.random.Generator) -> tuple[FloatArray, ...]:
        """Return the sweep with its configurations and its seeds in random orders.

        The truth is the mean over all seeds, which the full sweep always finds.
        """
        rows, seeds = self.scores.shape
        order = np.argsort(rng.random((races, rows)), axis=1)[:, :, None]
        columns = np.argsort(rng.random((races, seeds)), axis=1)[:, None, :]
        scores = self.scores[order, columns]
        return scores.mean(axis=-1), scores


def from_storage(storage: str) -> Iterator[Recorded]:
    """Yield the searches of a storage whose configurations all ran the same seeds."""
    runs = run_records(RecordStore(storage).all())
    for task in sorted({run.task for run in runs}):
        found = configurations(run for run in runs if run.task == task)
        for contender in sorted({one.contender for one in found}):
            ours = [one for one in found if one.contender == contender]
            seeds = tuple(run.seed for run in ours[0].runs)
            if len(ours) > 1 and all(tuple(run.seed for run in one.runs) == seeds for one in ours):
                yield Recorded(
                    f"{task}_{contender}",
                    tuple(json.dumps(dict(one.settings), sort_keys=True) for one in ours),
                    seeds,
                    np.array([[run.judged() for run in one.runs] for one in ours]),
                )


def read(path: Path) -> Recorded:
    """Return a sweep that `write` stored."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    settings = {row["configuration"]: row["settings"] for row in rows}
    seeds = tuple(dict.fromkeys(int(row["seed"]) for row in rows))
    scores = {(row["configuration"], int(row["seed"])): row["dev_macro_f1"] for row in rows}
    matrix = np.array([[float(scores[one, seed]) for seed in seeds] for one in settings])
    return Recorded(path.stem, tuple(settings.values()), seeds, matrix)


def write(sweep: Recorded, folder: Path) -> None:
    """Store a sweep's scores as CSV, one row a seed-run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{sweep.label}.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for index, settings in enumerate(sweep.settings):
            for seed, score in zip(sweep.seeds, sweep.scores[index], strict=True):
                rows.writerow([index, settings, seed, f"{score:.6f}"])


def details(found: Mapping[tuple[str, int], Outcome], setting: str, rows: int) -> Iterator[str]:
    """Yield the table rows of the shipped rule: one a batch size."""
    for (name, batch), one in found.items():
        if name == "empirical Bayes":
            loss, bound = one.loss
            yield _row(
                setting,
                _batch(batch, rows),
                f"{one.full_good.mean():.1%}",
                f"{one.race_good.mean():.1%}",
                f"{100 * loss:.1f}",
                f"{100 * bound:.1f}",
                f"{one.used.mean():.1%}",
                f"{one.winner_dropped.mean():.1%}",
                f"{one.best_dropped.mean():.1%}",
            )


def comparison(found: Mapping[tuple[str, int], Outcome], setting: str) -> Iterator[str]:
    """Yield the table rows of all rules: what is lost and used by batch size."""
    for rule in dict.fromkeys(name for name, _ in found):
        cells = (
            f"{100 * one.loss[0]:.1f} ({100 * one.loss[1]:.1f}), {one.used.mean():.0%}"
            for (name, _), one in found.items()
            if name == rule
        )
        yield _row(setting, rule, *cells)


def replayed(found: Mapping[tuple[str, int], Outcome], label: str, rows: int) -> Iterator[str]:
    """Yield the table rows of a recorded sweep: all rules, all batch sizes."""
    for (name, batch), one in found.items():
        yield _row(
            label,
            name,
            _batch(batch, rows),
            f"{one.race_good.mean():.1%}",
            f"{100 * one.regret.mean():.2f}",
            f"{one.used.mean():.1%}",
            f"{one.winner_dropped.mean():.1%}",
        )


def _batches(rows: int) -> list[int]:
    return [*(size for size in (1, 4, 8) if size < rows), rows]


def _batch(batch: int, rows: int) -> str:
    return "all" if batch == rows else str(batch)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(columns: Iterable[str], rows: Iterable[str]) -> str:
    names = list(columns)
    return "\n".join([_row(*names), "|" + "---|" * len(names), *rows])


def simulated(options: argparse.Namespace, rules: Mapping[str, Rule]) -> str:
    """Return the part of the document about simulated scores."""
    shipped: list[str] = []
    compared: list[str] = []
    for index, setting in enumerate(SETTINGS):
        rows = setting.configurations

        def draw(
            races: int, rng: np.random.Generator, setting: Setting = setting
        ) -> tuple[FloatArray, ...]:
            return simulate(setting, races, rng)

        seed = options.seed + index
        found = outcomes(draw, rules, _batches(rows), options.repetitions, seed)
        shipped += details(found, str(setting), rows)
        compared += comparison(found, str(setting))
        print(*details(found, str(setting), rows), *comparison(found, str(setting)), sep="\n")
    head = (
        f"{options.repetitions:,} races a setting, {SEEDS} seeds, standard deviation over seeds "
        f"{100 * SEED_SD:g} points. A winner is good when its true mean is within "
        f"{100 * TOLERANCE:g} points of the best one's. Loss: points of probability of a good "
        "winner that racing gives up against all seeds of all configurations on the same numbers, "
        "with its upper 95% bound (one-sided, paired). Later better: after the first third, "
        "proposals are one standard deviation better and 0.6 as wide. Collapses: 2% of the runs "
        "lose 30 points."
    )
    by_rule = ("setting", "rule", "batch 1", "batch 4", "batch 8", "all at once")
    return (
        f"{head}\n\n{_table(_DETAILS, shipped)}\n\n"
        "All rules: loss (its bound), share of the seed-runs used.\n\n"
        f"{_table(by_rule, compared)}"
    )


_DETAILS = (
    "setting",
    "batch",
    "good: full sweep",
    "good: racing",
    "loss",
    "bound",
    "seed-runs used",
    "full sweep's winner dropped",
    "truly best dropped",
)
_REPLAYED = (
    "sweep",
    "rule",
    "batch",
    "within 0.5 points",
    "mean points lost",
    "seed-runs used",
    "winner dropped",
)


def recorded(
    options: argparse.Namespace, sweeps: Iterable[Recorded], rules: Mapping[str, Rule]
) -> str:
    """Return the part of the document about recorded sweeps."""
    rows: list[str] = []
    for sweep in sweeps:
        count = len(sweep.settings)
        label = f"{sweep.label} ({count} configurations, {len(sweep.seeds)} seeds)"
        found = outcomes(sweep.draw, rules, _batches(count), options.repetitions, options.seed)
        rows += replayed(found, label, count)
        print(*replayed(found, label, count), sep="\n", flush=True)
    head = (
        f"{options.repetitions:,} replays a sweep, configurations and seeds in random orders. The "
        "truth is the mean over all recorded seeds, so the full sweep is always right."
    )
    return f"{head}\n\n{_table(_REPLAYED, rows)}"


def main() -> None:
    """Print, and write where asked, the parts that were asked for."""
    options = _options()
    rules = {name: RULES[name] for name in options.rules}
    sweeps = [read(path) for path in sorted(_RECORDED.glob("*.csv"))]
    if options.records:
        sweeps = list(from_storage(options.records))
    if options.export:
        for sweep in sweeps:
            write(sweep, _RECORDED)
    if "simulated" in options.parts:
        _publish("racing", "Racing over seeds", simulated(options, rules), options.write)
    if "recorded" in options.parts and sweeps:
        body = recorded(options, sweeps, rules)
        _publish("racing-recorded", "Racing over seeds, recorded sweeps", body, options.write)


def _publish(name: str, title: str, body: str, write: bool) -> None:
    print(body)
    if write:
        facts = section.provenance("numpy", "scipy")
        section.write(name, f"## {title}\n\n{facts}\n\n{body}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ["simulated", "recorded"]
    add("--parts", nargs="+", default=parts, choices=parts, help="what to race on")
    add("--rules", nargs="+", default=list(RULES), choices=list(RULES), help="the rules to run")
    add("--repetitions", type=int, default=5000, help="races a setting")
    add("--seed", type=int, default=1000, help="of the random numbers")
    add("--records", help="storage with a recorded search; default: the files of recorded/")
    add("--export", action="store_true", help="keep the scores of --records in recorded/")
    add("--write", action="store_true", help="write the sections of docs/BENCHMARKS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
