"""The written report: Markdown with figures beside it, and one HTML page, the answer first.

It is made from records alone, whatever state they are in: one contender, one seed, failed runs, a
search without a final comparison. What the records cannot show is said, not left out. Every text
that comes from users or corpora is escaped.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from adapt_ray.artifacts import write_whole
from adapt_ray.data.leaks import Leaks
from adapt_ray.records import RunRecord, run_records
from adapt_ray.report import beside, evidence, figures, page, tables, variance
from adapt_ray.report.answer import answer, limits
from adapt_ray.report.beside import Beside
from adapt_ray.report.groups import (
    Study,
    failed,
    final_arms,
    reference_arm,
    studies,
    trained,
)
from adapt_ray.report.prompting import prompting
from adapt_ray.report.rows import Answers
from adapt_ray.report.searched import search
from adapt_ray.report.selections import OverlapRow, SelectionMap
from adapt_ray.report.sizes import TaskSizes, task_sizes
from adapt_ray.report.tables import Table, markdown
from adapt_ray.report.tokens import HTML, MARKDOWN, TokenReport, write_token_report
from adapt_ray.report.wording import MISSING, escape
from adapt_ray.report.writer import Writer

FILE = "report.md"
PAGE = "report.html"
_MOST_TOKENS = 30
_MOST_FAILURES = 20


@dataclass(frozen=True)
class TokenRow:
    """A task token: the sequence it stands for, its support and its normalised perplexity."""

    text: str
    support: int
    perplexity: float


@dataclass(frozen=True)
class PlantedRow:
    """A phrase that the corpus is known to hold: whether it was mined, and became a token."""

    text: str
    found: bool
    support: int | None = None
    token: bool = False


@dataclass(frozen=True)
class Context:
    """What a job knows besides the records; everything may be absent."""

    title: str = "Comparison of adaptation methods"
    command: str | None = None  # what repeats the job
    task: str | None = None
    timings: Mapping[str, float | str] = field(default_factory=dict)  # seconds, or "reused"
    tokens: Sequence[TokenRow] = ()
    token_report: TokenReport | None = None  # written beside the report
    planted: Sequence[PlantedRow] = ()
    leaks: Leaks = field(default_factory=Leaks)
    selections: Sequence[SelectionMap] = ()
    overlaps: Sequence[OverlapRow] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)  # what it is -> its key
    published: Beside | None = None  # written beside the report
    answers: Mapping[str, Answers] = field(default_factory=dict)  # test predictions, by run_id


def write_report(
    folder: Path, records: pa.Table, curves: Mapping[str, pa.Table], context: Context
) -> Path:
    """Write ``report.md`` with its figures, and ``report.html``, into a folder.

    Returns the path of ``report.md``. The page holds its figures and needs no other file.

    ``records`` has RUN_SCHEMA; ``curves`` maps a run_id to a table with CURVES_SCHEMA. The text is
    written last, so that a reader who sees it finds every figure it shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = run_records(records)
    found = studies(trained(runs))
    drawings: dict[str, bytes] = {}
    blocks = [f"# {escape(context.title)}", *_opening(found, context)]
    if context.published is not None:
        link = f"[{escape(context.published.title)}: published and ours]({beside.FILE})"
        blocks.append(f"Beside published figures: {link}.")
    for number, study in enumerate(found, 1):
        several = len(found) > 1
        heading = f": {escape(study.label)}" if several else ""
        writer = Writer(folder, drawings, heading, f"-{number}" if several else "")
        blocks += _final(writer, study, curves)
        blocks += evidence.other_rows(writer, study, context.answers)
        blocks += search(writer, study, curves)
        blocks += [
            writer.heading("What all runs took"),
            "Training alone, without evaluation and without what runs share.",
            markdown(tables.spent(study.runs)),
        ]
        blocks += _failures(writer, study)
    blocks += evidence.across_tasks(Writer(folder, drawings), found)
    blocks += evidence.spread_sources(Writer(folder, drawings), trained(runs), context.answers)
    blocks += _sizes(Writer(folder, drawings), task_sizes(trained(runs)))
    blocks += _prompting(runs)
    if context.token_report is not None:
        write_token_report(folder, context.token_report)
    if context.published is not None:
        published = beside.as_markdown(context.published)
        _write(folder / beside.FILE, published)
        _write(folder / beside.PAGE, page.as_page(published, {}, {}))
    blocks += _inputs(Writer(folder, drawings), context)
    blocks += _provenance(runs, context)
    text = "\n\n".join(blocks) + "\n"
    _write(folder / PAGE, page.as_page(text, drawings, {beside.FILE: beside.PAGE}))
    _write(folder / FILE, text)
    return folder / FILE


def _write(path: Path, text: str) -> None:
    write_whole(pafs.LocalFileSystem(), str(path.absolute()), text.encode())


def _opening(found: Sequence[Study], context: Context) -> list[str]:
    task = [f"Task: {escape(context.task)}."] if context.task else []
    if not found:
        return [
            *task,
            "## Answer",
            "There are no records yet of runs that trained, so there is nothing to compare.",
        ]
    blocks = [*task, "## Answer"]
    for study in found:
        if len(found) > 1:
            blocks.append(f"### {escape(study.label)}")
        blocks.append(_bullets(answer(study)))
        what_not = limits(study)
        if what_not:
            blocks += ["What this does not show:", _bullets(what_not)]
    return blocks


def _final(writer: Writer, study: Study, curves: Mapping[str, pa.Table]) -> list[str]:
    arms = final_arms(study.runs)
    scored = [arm for arm in arms if arm.values]
    if not arms:
        return []
    blocks = [writer.heading("Final comparison"), markdown(tables.comparison(arms))]
    if scored:
        blocks.append(writer.figure(figures.final_scores(scored), "scores", "Test scores by seed"))
    if len(scored) > 1:
        blocks += [
            f"The lead of {escape(scored[0].label)}, seed by seed:",
            markdown(tables.differences(scored[0], scored[1:])),
            writer.heading("Variance over seeds"),
            markdown(tables.variances(scored, reference_arm(scored) or scored[0])),
            "The bootstrap interval (of the log ratio, studentised, pairs of seeds drawn together) "
            "is the one that keeps its promise for skewed scores too, at the price of its width. "
            "The F interval, Bartlett and the chances to notice a halving (F test at 5%, power "
            f"{variance.WANTED_POWER} for the seeds needed) hold for independent normal samples, "
            "Brown-Forsythe for independent ones; Pitman-Morgan uses that the same seeds ran in "
            "both. These p values are not corrected for their number. One point is 0.01 of "
            "macro-F1.",
        ]
    blocks += [writer.heading("Cost"), markdown(tables.costs(arms))]
    if any(arm.flops is not None or arm.train_seconds is not None for arm in scored):
        blocks.append(writer.figure(figures.cost_against_score(scored), "cost", "Score and cost"))
    by_arm = {
        arm.label: [curves[run.run_id] for run in arm.runs if run.run_id in curves] for arm in arms
    }
    drawn = {label: found for label, found in by_arm.items() if any(map(len, found))}
    if drawn:
        figure = writer.figure(figures.learning_curves(drawn), "curves", "Learning curves")
        blocks += [writer.heading("Learning curves"), figure]
    return blocks


def _sizes(writer: Writer, found: Sequence[TaskSizes]) -> list[str]:
    """Return the sections on tasks that ran in several sizes."""
    blocks = []
    drawn = [(sizes.task, lines) for sizes in found for lines in sizes.curves]
    for sizes in found:
        blocks += [
            f"{writer.heading('Scores by training rows')}: {escape(sizes.task)}",
            "A line joins sizes that share one test split; other splits only stand in the table. "
            "Repeats of oversampling are not counted as rows.",
            markdown(tables.sizes(sizes.lines)),
        ]
        for number, (task, lines) in enumerate(drawn, 1):
            if task == sizes.task:
                name = f"sizes-{number}" if len(drawn) > 1 else "sizes"
                figure = figures.scores_by_size(lines)
                blocks.append(writer.figure(figure, name, "Test scores by training rows"))
    return blocks


def _prompting(runs: Sequence[RunRecord]) -> list[str]:
    """Return the section on prompted models, of all tasks."""
    table = prompting(runs)
    if not table.rows:
        return []
    return [
        "## Prompting",
        "Unparsed replies count as wrong. A run is one temperature and one seed over dev and test; "
        "prompts without examples at temperature 0 ran once, since no seed changes them.",
        markdown(table),
    ]


def _failures(writer: Writer, study: Study) -> list[str]:
    lost = [run for run in study.runs if failed(run)]
    if not lost:
        return []
    rows = tuple(
        (run.contender, run.phase, str(run.seed), _fate(run), run.error or MISSING)
        for run in lost[:_MOST_FAILURES]
    )
    shown = "" if len(lost) == len(rows) else f" The first {len(rows)}:"
    return [
        writer.heading("Failed runs"),
        f"{len(lost)} of all {len(study.runs)} runs ended early or learned no more than to name "
        f"the most frequent class.{shown}",
        markdown(Table(("Contender", "Phase", "Seed", "Status", "Error"), rows)),
    ]


def _fate(run: RunRecord) -> str:
    return run.status if run.status != "ok" else "at the majority baseline"


def _inputs(writer: Writer, context: Context) -> list[str]:
    """Return the sections on leaks, task tokens, planted phrases and sensitivity."""
    blocks = []
    if context.leaks.pairs:
        blocks += [writer.heading("Texts in two splits"), *_leak_blocks(context.leaks)]
    if context.tokens:
        blocks += [writer.heading("Task tokens"), *_token_blocks(context.tokens)]
    if context.token_report is not None:
        blocks.append(
            f"Every token, by kind and with the class it points to: [as a page]({HTML}), [as "
            f"Markdown]({MARKDOWN})."
        )
        figure = figures.token_map(context.token_report)
        blocks.append(writer.figure(figure, "tokens", "Task tokens by support and perplexity"))
    if context.planted:
        hits = sum(row.found for row in context.planted)
        rows = tuple(
            (
                row.text,
                "yes" if row.found else "no",
                _optional(row.support),
                "yes" if row.token else "no",
            )
            for row in context.planted
        )
        blocks += [
            writer.heading("Planted phrases"),
            f"Mining found {hits} of the {len(context.planted)} phrases planted in the corpus; "
            f"{sum(row.token for row in context.planted)} became tokens.",
            markdown(Table(("Phrase", "Mined", "Support", "Token"), rows)),
        ]
    if context.selections:
        blocks += [writer.heading("What trains"), *_selection_blocks(writer, context)]
    return blocks


def _selection_blocks(writer: Writer, context: Context) -> list[str]:
    blocks = [
        "Operations are those of one training step over full finetuning's, by the sizes of the "
        "modules; the table of costs shows what was counted.",
        markdown(tables.selections(context.selections)),
    ]
    if context.overlaps:
        blocks += [
            "How task-specific a selection is: what two have in common, in parameters over the "
            "smaller one's, beside what random selections as large and as deep have on average.",
            markdown(tables.overlaps(context.overlaps)),
        ]
    for number, found in enumerate(context.selections, 1):
        name = f"selection-{number}" if len(context.selections) > 1 else "selection"
        figure = figures.selection_map(found)
        blocks.append(writer.figure(figure, name, f"What {escape(found.label)} trains"))
    return blocks


def _leak_blocks(leaks: Leaks) -> list[str]:
    fate = (
        "They were dropped from the first split of each pair."
        if leaks.dropped
        else "They were kept: where train and test share many, test scores are optimistic."
    )
    return [
        f"Texts count as equal in any white space and case, markers removed. {fate}",
        markdown(tables.leaks(leaks.pairs)),
    ]


def _token_blocks(tokens: Sequence[TokenRow]) -> list[str]:
    shown = tokens[:_MOST_TOKENS]
    rows = tuple((row.text, str(row.support), f"{row.perplexity:.3g}") for row in shown)
    note = "" if len(shown) == len(tokens) else f" The first {len(shown)} of {len(tokens)}:"
    return [
        "The lower the normalised perplexity, the more the words of a sequence belong together. "
        f"Support counts distinct training texts.{note}",
        markdown(Table(("Sequence", "Support", "Normalised perplexity"), rows)),
    ]


def _provenance(runs: Sequence[RunRecord], context: Context) -> list[str]:
    """Return the sections on time, artifacts, software and how to repeat the job."""
    blocks = []
    if context.timings:
        blocks += ["## Time by stage", markdown(tables.stages(context.timings))]
    if context.artifacts:
        rows = tuple(context.artifacts.items())
        blocks += ["## Artifacts", markdown(Table(("Artifact", "Key"), rows))]
    if runs:
        blocks += ["## Where the runs came from", markdown(_environment(runs))]
    if context.command:
        blocks += ["## Repeat", _fenced(context.command)]
    return blocks


def _environment(runs: Sequence[RunRecord]) -> Table:
    versions: dict[str, set[str]] = {}
    for run in runs:
        for package, version in json.loads(run.versions_json).items():
            versions.setdefault(package, set()).add(str(version))
    facts = {
        "machine": (run.machine for run in runs),
        "code revision": (run.git_revision for run in runs),
        "model": (run.model for run in runs),
        "precision": (run.precision for run in runs),
        "engine": (_engine(run) for run in runs),
        "workers of a run": (str(run.world_size) for run in runs),
        "corpus digest": (run.corpus_digest for run in runs),
        "token set digest": (run.token_set_digest or "no task tokens" for run in runs),
        **versions,
    }
    return Table(("What", "Value"), tuple((name, _each(values)) for name, values in facts.items()))


def _engine(run: RunRecord) -> str:
    return run.engine if run.zero_stage is None else f"{run.engine}, ZeRO stage {run.zero_stage}"


def _each(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def _optional(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _fenced(code: str) -> str:
    """Return a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{code}\n{fence}"
