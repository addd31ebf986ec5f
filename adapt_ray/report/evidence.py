"""The report's sections on how far scores can be trusted beyond their seeds.

Other test rows, other tasks, and where the spread of scores comes from.
"""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from adapt_ray.records import RunRecord
from adapt_ray.report import aggregate, rows, variance
from adapt_ray.report.bootstrap import Interval
from adapt_ray.report.contributions import Contribution
from adapt_ray.report.drawing import legend, plain, styles_of, tidy
from adapt_ray.report.groups import Arm, Study, failed, final_arms, reference_arm, spread_scores
from adapt_ray.report.rows import Answers, Crossed
from adapt_ray.report.sources import Crossing, crossings
from adapt_ray.report.statistics import Values
from adapt_ray.report.tables import Table, markdown
from adapt_ray.report.wording import (
    MISSING,
    escape,
    interval,
    multiple,
    p_value,
    score,
    share,
    signed,
)
from adapt_ray.report.writer import Writer

_POINTS = 100.0  # points in a fraction


def other_rows(writer: Writer, study: Study, answers: Mapping[str, Answers]) -> list[str]:
    """Return the section on other test sets; empty without predictions of any arm.

    ``answers`` holds the test answers of runs by run_id.
    """
    arms = [arm for arm in final_arms(study.runs) if _answered(arm, answers)]
    if not arms:
        return []
    found = {arm.label: _crossed(arm, answers) for arm in arms}
    blocks = [
        writer.heading("Other test rows"),
        "The intervals above speak of other seeds on these test rows. These speak of other rows "
        "too: source texts are drawn anew with all their rows, and seeds with them (bootstrap, "
        f"{rows.RESAMPLES:,} resamples; of one seed, rows alone). Deviations are those of a single "
        "run's score.",
        markdown(_sampling_table(found)),
    ]
    if len(arms) > 1:
        blocks.append(markdown(_row_differences(arms, answers)))
    return blocks


def _answered(arm: Arm, answers: Mapping[str, Answers]) -> list[RunRecord]:
    return [run for run in arm.runs if run.run_id in answers]


def _crossed(arm: Arm, answers: Mapping[str, Answers]) -> Crossed:
    return rows.crossed([answers[run.run_id] for run in _answered(arm, answers)])


def _sampling_table(found: Mapping[str, Crossed]) -> Table:
    columns = (
        "Contender",
        "Test macro-F1",
        "95% interval (rows and seeds)",
        "sd by rows (points)",
        "sd by seeds (points)",
        "sd by both together (points)",
        "Share of the variance due to rows",
    )
    return Table(columns, tuple(_sampling_row(label, one) for label, one in found.items()))


def _sampling_row(label: str, found: Crossed) -> tuple[str, ...]:
    mean, parts = rows.arm_interval(found), rows.sampling(found)
    start = (label, score(mean.estimate), interval(mean.low, mean.high))
    if parts is None:
        return (*start, _points(float(found.replicates.var(ddof=1))), *[MISSING] * 3)
    deviations = map(_points, (parts.rows, parts.seeds, parts.both))
    return (*start, *deviations, share(parts.share_of_rows))


def _row_differences(arms: Sequence[Arm], answers: Mapping[str, Answers]) -> Table:
    columns = ("Comparison", "Pairs", "Difference in F1", "95% interval (rows and seeds)")
    found = []
    for other in arms[1:]:
        pairs = _pairs(arms[0], other, answers)
        if pairs:
            a, b = (rows.crossed(side) for side in zip(*pairs, strict=True))
            one = rows.difference_interval(a, b)
            ends = interval(one.low, one.high, signs=True)
            label = f"{arms[0].label} - {other.label}"
            found.append((label, str(len(pairs)), signed(one.estimate), ends))
    return Table(columns, tuple(found))


def _pairs(a: Arm, b: Arm, answers: Mapping[str, Answers]) -> list[tuple[Answers, Answers]]:
    """Return the answers of the runs of two arms that agree in seed and number of workers."""
    theirs = {(run.seed, run.world_size): run for run in _answered(b, answers)}
    ours = [(run, theirs.get((run.seed, run.world_size))) for run in _answered(a, answers)]
    return [(answers[one.run_id], answers[other.run_id]) for one, other in ours if other]


def across_tasks(writer: Writer, studies: Sequence[Study]) -> list[str]:
    """Return the section on all corpora together; empty where one task or method is all."""
    arms = {study.label: {arm.label: arm for arm in final_arms(study.runs)} for study in studies}
    scores = {task: {name: arm.values for name, arm in one.items()} for task, one in arms.items()}
    found = aggregate.by_task(scores)
    tasks = {study.runs[0].task for study in studies}
    if len(tasks) < 2 or len(found) < 2:
        return []
    by_name = {name: [one[name] for one in arms.values()] for name in found}
    reference = reference_arm([members[0] for members in by_name.values()])
    base = reference.label if reference else next(iter(by_name))
    blocks = [
        writer.heading(f"{variance.in_words(len(arms)).capitalize()} corpora together"),
        "Every corpus has the same weight; seeds are drawn within one, so the intervals speak of "
        f"other seeds on these corpora. Variances and chances are against {escape(base)}.",
        markdown(_aggregate_table(by_name, base)),
    ]
    figure = performance_profiles(found)
    caption = "Share of the runs above a score, over all corpora"
    return [*blocks, writer.figure(figure, "profiles", caption)]


def _aggregate_table(by_name: Mapping[str, Sequence[Arm]], base: str) -> Table:
    columns = (
        "Contender",
        "Interquartile mean of F1",
        "95% interval",
        "Chance that a run is better",
        "95% interval",
        "Variance ratio (geometric mean)",
        "95% interval (bootstrap)",
        "p",
        "Failed runs",
        "95% interval (Wilson)",
    )
    found = (_aggregate_row(name, arms, by_name[base]) for name, arms in by_name.items())
    return Table(columns, tuple(found))


def _aggregate_row(name: str, arms: Sequence[Arm], base: Sequence[Arm]) -> tuple[str, ...]:
    middle = aggregate.interquartile_mean([arm.values for arm in arms])
    runs = [run for arm in arms for run in arm.runs]
    lost = sum(map(failed, runs))
    rate = aggregate.rate(lost, len(runs))
    same = arms[0] is base[0]
    pairs = list(zip(arms, base, strict=True))
    better = aggregate.improvement([(a.values, b.values) for a, b in pairs])
    return (
        name,
        score(middle.estimate if middle else None),
        _ends(middle),
        MISSING if same else share(better.estimate if better else None),
        MISSING if same else _ends(better, of=share),
        *((MISSING,) * 3 if same else _pooled(pairs)),
        f"{lost} of {len(runs)}",
        _ends(rate, of=share),
    )


def _pooled(pairs: Sequence[tuple[Arm, Arm]]) -> tuple[str, ...]:
    """Return the pooled variance ratio, its interval and test; by pairs where all tasks have."""
    found = [spread_scores(a, b) for a, b in pairs]
    paired = all(one[2] for one in found)
    samples = [(x, y) if paired else (a.values, b.values)
               for (x, y, _), (a, b) in zip(found, pairs, strict=True)]  # fmt: skip
    pooled = variance.pooled_ratio(samples, paired=paired)
    if pooled is None:
        return (MISSING,) * 3
    return multiple(pooled.ratio), pooled.ends, p_value(pooled.p)


def _ends(found: Interval | None, of: Callable[[float | None], str] = score) -> str:
    return f"{of(found.low)} to {of(found.high)}" if found else MISSING


def performance_profiles(by_name: Mapping[str, Sequence[Values]]) -> Figure:
    """Draw the share of each method's runs above every score, with pointwise 95% bands."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    at = aggregate.thresholds_of([values for samples in by_name.values() for values in samples])
    styles = styles_of(list(by_name))
    for name, samples in by_name.items():
        found = aggregate.performance_profile(samples, at)
        if found is not None:
            colour = styles[name][0]
            axes.plot(at, found.share, color=colour, label=plain(name))
            axes.fill_between(at, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("test macro-F1 (0 to 1)")
    axes.set_ylabel("share of the runs above it")
    tidy(axes, "both")
    legend(figure, axes)
    return figure


def spread_sources(
    writer: Writer, runs: Sequence[RunRecord], answers: Mapping[str, Answers]
) -> list[str]:
    """Return the section on what the spread of scores comes from; empty without crossed runs."""
    found = crossings(runs)
    if not found:
        return []
    blocks = [
        writer.heading("Where the spread comes from"),
        "Runs that cross several sources of chance, one run a cell: variances by the method of "
        "moments in a model of random effects, with generalised intervals for normal effects. "
        "With few levels the intervals are wide: a source of three levels has two degrees of "
        "freedom. Estimates below zero are shown as 0; they mean that the data show no effect.",
    ]
    for one in found:
        heading = f"### {escape(one.label)} on {escape(one.task)}"
        blocks += [heading, _crossing_words(one), markdown(_crossing_table(one, answers))]
    return blocks


def _crossing_words(one: Crossing) -> str:
    """Say which source moves a run's score most."""
    parts = one.contributions()
    total = sum(part.shown for part in parts)
    size = " x ".join(
        f"{n} of {name}" for n, name in zip(one.scores.shape, one.sources, strict=True)
    )
    left = f" {one.left_out} other runs have no complete table." if one.left_out else ""
    if not total:
        return f"{size}: all scores are equal.{left}"
    said = ", ".join(
        f"{share(part.shown / total)} {_source(part, one)}"
        for part in sorted(parts, key=lambda part: -part.shown)
    )
    return f"{size}. Of the variance of a run's score: {escape(said)}.{left}"


def _source(part: Contribution, one: Crossing) -> str:
    """Name a source, or what several have in common; all of them hold what is left over."""
    name = " with ".join(part.sources)
    return f"{name} (and the rest)" if len(part.sources) == len(one.sources) else name


def _crossing_table(one: Crossing, answers: Mapping[str, Answers]) -> Table:
    columns = (
        "Source",
        "Variance (points²)",
        "95% interval",
        "sd (points)",
        "Degrees of freedom",
        "Share",
    )
    parts = one.contributions()
    total = sum(part.shown for part in parts)
    found = [_part_row(part, one, total) for part in parts]
    by_rows = _variance_by_rows(one, answers)
    if by_rows is not None:
        sampled = f"{_POINTS**2 * by_rows:.3g}"
        name = "sampling of the test set (apart, by bootstrap)"
        found.append((name, sampled, MISSING, _points(by_rows), MISSING, MISSING))
    return Table(columns, tuple(found))


def _part_row(part: Contribution, one: Crossing, total: float) -> tuple[str, ...]:
    scaled = [_POINTS**2 * value for value in (part.variance, part.low, part.high)]
    below = " (estimate below 0)" if part.variance < 0 else ""
    return (
        _source(part, one),
        f"{max(scaled[0], 0.0):.3g}{below}",
        f"{scaled[1]:.3g} to {scaled[2]:.3g}",
        _points(part.shown),
        str(part.freedom),
        share(part.shown / total if total else None),
    )


def _variance_by_rows(one: Crossing, answers: Mapping[str, Answers]) -> float | None:
    """Return the mean over test splits of the variance that other rows of it would bring."""
    splits: dict[str, list[Answers]] = {}
    for run in one.runs:
        if run.run_id in answers:
            splits.setdefault(run.corpus_digest, []).append(answers[run.run_id])
    found = [rows.sampling(rows.crossed(members)) for members in splits.values()]
    known = [part.rows for part in found if part is not None]
    return sum(known) / len(known) if known else None


def _points(value: float) -> str:
    """Return the deviation of a variance of fractions, in points."""
    return f"{_POINTS * value**0.5:.2f}"
