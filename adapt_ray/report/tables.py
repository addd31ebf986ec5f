"""Tables from run records, their numbers written for readers.

A cell holds plain text; :func:`markdown` escapes it, so names and corpus text that users bring
cannot break a table or become markup.
"""

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_ray.data.leaks import Leak
from adapt_ray.records import RunRecord
from adapt_ray.report import aggregate, statistics, variance
from adapt_ray.report.groups import (
    Arm,
    Configuration,
    compare,
    configurations,
    failed,
    mean,
    outcomes,
    reference_arm,
    relative_cost,
    spread_scores,
)
from adapt_ray.report.pareto import pareto_front
from adapt_ray.report.selections import OverlapRow, SelectionMap
from adapt_ray.report.sizes import SizeLine, SizePoint
from adapt_ray.report.wording import (
    MISSING,
    escape,
    interval,
    multiple,
    operations,
    p_value,
    score,
    seconds,
    settings_text,
    share,
    signed,
    size,
    spread,
)


@dataclass(frozen=True)
class Table:
    """Column names and rows of plain text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        """Return the table as notebooks show it."""
        cells = [_html_row("th", self.columns), *(_html_row("td", row) for row in self.rows)]
        return f"<table>{''.join(cells)}</table>"


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown, every cell escaped, all but the first to the right."""
    rule = [":--"] + ["--:"] * (len(table.columns) - 1)
    rows = [map(escape, table.columns), rule, *(map(escape, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def comparison(arms: Sequence[Arm]) -> Table:
    """Return the final scores, one row an arm."""
    columns = (
        "Contender",
        "Seeds",
        "Test macro-F1",
        "95% interval",
        "Interquartile mean",
        "Variance (points²)",
        "Test accuracy",
        "Failed runs",
    )
    return Table(columns, tuple(_comparison_row(arm) for arm in arms))


def differences(winner: Arm, others: Sequence[Arm]) -> Table:
    """Return the winner's lead over every other arm, with p values corrected for their number."""
    columns = (
        "Comparison",
        "Pairs",
        "Difference in F1",
        "95% interval",
        "p (paired t)",
        "p (t, Holm)",
        "p (Wilcoxon)",
        "Chance that a run is better",
    )
    found = [compare(winner, other) for other in others]
    corrected = statistics.holm([difference.t_p for difference in found])
    rows = (
        (
            f"{winner.label} - {other.label}",
            str(difference.n),
            signed(difference.mean),
            interval(difference.low, difference.high, signs=True),
            p_value(difference.t_p),
            p_value(p),
            p_value(difference.wilcoxon_p),
            share(statistics.probability_of_improvement(winner.values, other.values)),
        )
        for other, difference, p in zip(others, found, corrected, strict=True)
    )
    return Table(columns, tuple(rows))


def variances(arms: Sequence[Arm], reference: Arm) -> Table:
    """Return every other arm's variance of test macro-F1 against the reference's."""
    columns = (
        "Variances",
        "Seeds",
        "Ratio",
        "95% interval (bootstrap)",
        "95% interval (F)",
        "p (Pitman-Morgan, paired)",
        "p (Brown-Forsythe)",
        "p (Bartlett)",
        "Chance to notice a halving",
        "Seeds needed for that",
    )
    return Table(
        columns, tuple(_variance_row(arm, reference) for arm in arms if arm is not reference)
    )


def costs(arms: Sequence[Arm]) -> Table:
    """Return what the arms' runs cost, beside what they score.

    Cost relative to full finetuning is of whole runs, so that numbers of epochs count.
    """
    columns = (
        "Contender",
        "Test macro-F1",
        "Trained share",
        "Inserted tokens",
        "Training time a run",
        "FLOPs an epoch",
        "Peak memory",
        "FLOPs a run / full",
        "Time a run / full",
    )
    reference = reference_arm(arms)
    return Table(columns, tuple(_cost_row(arm, reference) for arm in arms))


def spent(runs: Iterable[RunRecord]) -> Table:
    """Return what all runs took together, by phase and contender; what they share is left out."""
    columns = ("Phase", "Contender", "Runs", "Failed runs", "Training time", "FLOPs")
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[run.phase, run.contender].append(run)
    rows = (
        (
            *key,
            str(len(members)),
            str(sum(map(failed, members))),
            seconds(_total(run.train_seconds for run in members)),
            operations(_total(run.train_flops for run in members)),
        )
        for key, members in sorted(groups.items())
    )
    return Table(columns, tuple(rows))


def search(runs: Iterable[RunRecord]) -> Table:
    """Return the search, one row a configuration, best first within each contender."""
    columns = (
        "Contender",
        "Rank",
        "Searched values",
        "Seeds",
        "Dev macro-F1",
        "Failed runs",
        "Chosen",
    )
    return Table(columns, tuple(_search_row(found) for found in configurations(runs)))


def trade_offs(found: Iterable[Configuration]) -> Table:
    """Return the Pareto front of score, spread and operations, best score first."""
    columns = (
        "Contender",
        "Rank",
        "Searched values",
        "Dev macro-F1",
        "Standard deviation (points)",
        "Its 95% interval",
        "FLOPs a run",
    )
    known = outcomes(found)
    front = [known[number] for number in pareto_front([point for _, point in known])]
    front.sort(key=lambda pair: -pair[1][0])
    return Table(columns, tuple(_trade_off_row(one, *point) for one, point in front))


def stages(timings: Mapping[str, float | str]) -> Table:
    """Return how long every stage took: seconds, or a word such as ``reused``."""
    rows = (
        (name, took if isinstance(took, str) else seconds(took)) for name, took in timings.items()
    )
    return Table(("Stage", "Time"), tuple(rows))


def _comparison_row(arm: Arm) -> tuple[str, ...]:
    estimate = arm.estimate
    found = variance.sample_variance(arm.values)
    accuracies = [run.test_accuracy for run in arm.runs if run.test_accuracy is not None]
    return (
        arm.label,
        str(estimate.n),
        spread(estimate),
        interval(estimate.low, estimate.high),
        score(statistics.interquartile_mean(arm.values)),
        MISSING if found is None else f"{1e4 * found:.2g}",
        spread(statistics.mean_estimate(accuracies)),
        _failures(arm),
    )


def _failures(arm: Arm) -> str:
    """Return the failed runs and the Wilson interval of their rate."""
    lost = sum(map(failed, arm.runs))
    found = aggregate.rate(lost, len(arm.runs))
    ends = f" ({share(found.low)} to {share(found.high)})" if found else ""
    return f"{lost} of {len(arm.runs)}{ends}"


def selections(found: Sequence[SelectionMap]) -> Table:
    """Return what every selection trains, and the cost of a step."""
    columns = (
        "Contender",
        "Chosen by",
        "Modules",
        "Layers",
        "Parameters",
        "Operations",
        "Operations above a cached trunk",
    )
    return Table(columns, tuple(_selection_row(one) for one in found))


def overlaps(rows: Sequence[OverlapRow]) -> Table:
    """Return what selections have in common."""
    columns = ("Selection", "Other selection", "In common", "By chance")
    return Table(columns, tuple((r.one, r.other, share(r.share), share(r.by_chance)) for r in rows))


def sizes(lines: Sequence[SizeLine]) -> Table:
    """Return the scores of every contender on every corpus of a task."""
    columns = (
        "Contender",
        "Training rows",
        "Test rows",
        "Corpus",
        "Seeds",
        "Test macro-F1",
        "95% interval",
        "Test accuracy",
        "95% interval of accuracy",
    )
    return Table(columns, tuple(_size_row(line, point) for line in lines for point in line.points))


def leaks(pairs: Sequence[Leak]) -> Table:
    """Return what every two splits have in common."""
    columns = ("Splits", "Texts", "Rows of the first", "Rows of the second", "Differing labels")
    rows = (
        (
            f"{leak.split}, {leak.other}",
            *map(str, (leak.texts, leak.rows, leak.other_rows, leak.conflicting)),
        )
        for leak in pairs
    )
    return Table(columns, tuple(rows))


def _size_row(line: SizeLine, point: SizePoint) -> tuple[str, ...]:
    f1, accuracy = point.estimates
    return (
        line.label,
        f"{point.train_rows:,}",
        f"{point.test_rows:,}",
        point.corpus_digest[:6],
        str(f1.n),
        spread(f1),
        interval(f1.low, f1.high),
        spread(accuracy),
        interval(accuracy.low, accuracy.high),
    )


def _selection_row(found: SelectionMap) -> tuple[str, ...]:
    layers = sorted({module.layer for module in found.selected})
    return (
        found.label,
        found.score,
        f"{len(found.selected)} of {len(found.modules)}",
        f"{layers[0]} to {layers[-1]}",
        share(found.trained_share),
        share(found.flop_share),
        share(found.cached_flop_share),
    )


def _variance_row(arm: Arm, reference: Arm) -> tuple[str, ...]:
    ours, theirs, paired = spread_scores(arm, reference)
    found = variance.ratio_interval(ours, theirs, paired=paired)
    by_f = variance.variance_ratio(ours, theirs)
    defined = found.ratio is not None
    powers = [variance.power(variance.HALVING, found.n_a, found.n_b, sides=n) for n in (2, 1)]
    needed = [variance.seeds_needed(sides=n) for n in (2, 1)]
    return (
        f"{arm.label} / {reference.label}",
        f"{found.n_a} pairs" if paired else f"{found.n_a} and {found.n_b}",
        multiple(found.ratio) if defined else "undefined",
        found.ends,
        by_f.ends,
        p_value(variance.pitman_morgan(ours, theirs) if paired else None),
        p_value(variance.brown_forsythe(ours, theirs)),
        p_value(variance.bartlett(ours, theirs)),
        f"{powers[0]:.2f} ({powers[1]:.2f} one-sided)" if defined else MISSING,
        f"{needed[0]} ({needed[1]} one-sided)",
    )


def _cost_row(arm: Arm, reference: Arm | None) -> tuple[str, ...]:
    flops, time = relative_cost(arm, reference) if reference else (None, None)
    return (
        arm.label,
        spread(arm.estimate),
        share(mean(run.trained_share for run in arm.runs)),
        share(mean(run.inserted_token_share for run in arm.runs)),
        seconds(arm.train_seconds),
        operations(mean(run.flops_per_epoch for run in arm.runs)),
        _peak_memory(arm),
        multiple(flops),
        multiple(time),
    )


_MEMORY_OF = {"rss": "process", "cuda": "GPU"}


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _peak_memory(arm: Arm) -> str:
    """Return the largest peak of the arm's runs and whose memory it is."""
    peaks = [run.peak_memory_bytes for run in arm.runs if run.peak_memory_bytes is not None]
    kinds = sorted({_MEMORY_OF[run.memory_kind] for run in arm.runs if run.memory_kind})
    return f"{size(max(peaks))} ({' and '.join(kinds)})" if peaks else MISSING


def _trade_off_row(
    found: Configuration, mean_f1: float, deviation: float, flops: float
) -> tuple[str, ...]:
    scores = [run.dev_macro_f1 for run in found.runs if run.dev_macro_f1 is not None]
    bounds = variance.variance_interval(scores)
    return (
        found.contender,
        str(found.rank),
        settings_text(found.settings) or MISSING,
        score(mean_f1),
        f"{100 * deviation:.2g}",
        " to ".join(f"{100 * bound**0.5:.2g}" for bound in bounds) if bounds else MISSING,
        operations(flops),
    )


def _search_row(found: Configuration) -> tuple[str, ...]:
    return (
        found.contender,
        str(found.rank),
        settings_text(found.settings) or MISSING,
        str(len(found.runs)),
        spread(found.estimate),
        str(sum(map(failed, found.runs))),
        "yes" if found.chosen else "",
    )
