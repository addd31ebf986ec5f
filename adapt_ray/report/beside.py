"""Published tables and ours side by side: pure functions of records and published data.

Ours stands in a published cell's row only where task, model, method and share are the same; the
difference is given only where the runs trained on about as many rows as the paper's corpus has.
Every other run of ours is a row of its own, marked as another model or share. A cell that nobody
ran says so, and how to run it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adapt_ray import known
from adapt_ray.config import TableName
from adapt_ray.records import RunRecord
from adapt_ray.report import statistics, variance
from adapt_ray.report.groups import Arm, final_arms, mean, paired_scores, studies
from adapt_ray.report.published import TASKS, Cell, PublishedTable, model_of, published, task_of
from adapt_ray.report.tables import Table, markdown
from adapt_ray.report.wording import (
    MISSING,
    escape,
    interval,
    multiple,
    score,
    share,
    signed,
    spread,
)

FILE = "published.md"
PAGE = "published.html"
_NOT_RUN = "not run"
_SAME_ROWS = 0.1  # of the paper's training rows: copies that differ by more are other data
_SAME_FRACTION = 0.04
_SAMPLES = 5000  # of an epoch in the published costs
_POINTS = 1e4  # points² in a variance of fractions


@dataclass(frozen=True)
class Remedy:
    """What would fill a cell that is not run: a command, or the reason why none can."""

    text: str
    possible: bool = True


@dataclass(frozen=True)
class Beside:
    """One published table beside ours, ready to be written."""

    title: str
    notes: tuple[str, ...]
    table: Table
    ours: Table  # the rows that hold something of ours
    cells: int  # published ones
    missing: Mapping[str, Remedy]  # by what the cell is of


Remedies = Callable[[Cell], Remedy]


def beside(name: TableName, runs: Iterable[RunRecord], remedy: Remedies) -> Beside:
    """Put final runs beside a published table; ``remedy`` says how to run a missing cell."""
    ours = [_Ours(arm) for study in studies(runs) for arm in final_arms(study.runs)]
    table = published(name)
    if name == "prompting":
        ours = _best_temperatures(ours)
    maker = {"costs": _costs, "stability": _stability, "ablation": _ablation}.get(name, _scores)
    columns, rows = maker(table, [one for one in ours if _RELEVANT[name](one)])
    missing = {_label(row.cell): remedy(row.cell) for row in rows if row.cell and not row.run}
    notes = (f"Published: {table.source}.", *table.caveats, *_OURS[name])
    whole = tuple(_texts(row, missing) for row in rows)
    run = tuple(row.texts for row in rows if row.run)
    ours_alone = Table(columns, run)
    return Beside(table.title, notes, Table(columns, whole), ours_alone, len(table.cells), missing)


def as_markdown(found: Beside) -> str:
    """Return the whole document: notes, table, and what would fill the cells that are not run."""
    blocks = [
        f"# {escape(found.title)}: published and ours",
        "\n".join(f"- {escape(note)}" for note in found.notes),
        markdown(found.table) if found.table.rows else "No run of ours belongs to this table yet.",
    ]
    commands = [f"# {label}\n{r.text}" for label, r in found.missing.items() if r.possible]
    if commands:
        blocks += ["## Cells that are not run", "```sh\n" + "\n".join(commands) + "\n```"]
    other = [f"- {escape(f'{k}: {r.text}')}" for k, r in found.missing.items() if not r.possible]
    if other:
        blocks += ["## Cells that cannot be run", "\n".join(other)]
    return "\n\n".join(blocks) + "\n"


def in_short(found: Beside) -> str:
    """Return for the terminal what is run, and how much is not."""
    run = found.cells - len(found.missing)
    count = f"{run} of {found.cells} published cells run" if found.cells else "no published values"
    body = [markdown(found.ours)] if found.ours.rows else []
    return "\n".join([f"{found.title}: {count}; notes and commands in {FILE}", *body])


@dataclass(frozen=True)
class _Row:
    cell: Cell | None  # None: ours alone
    run: bool
    texts: tuple[str, ...]


@dataclass(frozen=True)
class _Ours:
    """One of our configurations on one task, in the paper's names where it has them."""

    arm: Arm

    @property
    def first(self) -> RunRecord:
        return self.arm.runs[0]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What defines the runs."""
        found: Mapping[str, Any] = json.loads(self.first.config_json)
        return found

    @property
    def method(self) -> Mapping[str, Any]:
        """The method's settings; empty for prompts."""
        found: Mapping[str, Any] = self.config.get("method", {})
        return found

    @property
    def shots(self) -> int | None:
        """Examples in a prompt."""
        shots: int | None = self.config.get("prompt", {}).get("shots")
        return shots

    @property
    def task(self) -> str:
        return task_of(self.first.task)

    @property
    def model(self) -> str | None:
        return model_of(self.first.model)

    @property
    def usual_tokens(self) -> bool:
        """Whether it has task tokens as the paper's figures do: AdaPT, and no other method."""
        return bool(self.method.get("task_tokens", False)) == (self.first.method == "adapt")

    @property
    def share(self) -> str:
        """The trained share that was asked for."""
        if "sparsity" not in self.method:
            return MISSING
        of = " of the encoder" if self.method.get("of") == "encoder" else ""
        return share(self.method["sparsity"]) + of

    @property
    def fraction(self) -> float | None:
        """Training rows over those and the test rows."""
        train, test = self.first.train_rows, self.first.test_rows
        return None if train is None or test is None else train / (train + test)

    def of(self, cell: Cell) -> bool:
        """Whether it is what a published cell is of."""
        return (
            cell.task in (None, self.task)
            and (self.model == cell.model if cell.model else self.model is not None)
            and self.first.method == cell.method
            and (cell.share is None or self._has(cell.share))
            and (cell.shots is None or self.shots == cell.shots)
            and (cell.train_fraction is None or self._trained_on(cell.train_fraction))
        )

    def _has(self, wanted: float) -> bool:
        asked = float(self.method.get("sparsity", 0.0))
        return self.method.get("of", "model") == "model" and abs(asked - wanted) < 1e-9

    def _trained_on(self, wanted: float) -> bool:
        return self.fraction is not None and abs(self.fraction - wanted) < _SAME_FRACTION

    @property
    def whole_corpus(self) -> bool:
        """Whether it trained on about as many rows as the paper's copy of the corpus has."""
        size = known.CORPORA.get(self.first.task)
        if size is None or self.first.train_rows is None:
            return False
        return abs(self.first.train_rows / size.train - 1) <= _SAME_ROWS

    @property
    def name(self) -> str:
        """The method, and the user's name for it where that says more."""
        method, label = self.first.method, self.first.contender
        return method if method == label else f"{method} ({label})"


def _model(one: _Ours) -> str:
    return one.model or f"{one.first.model} (another model)"


def _texts(row: _Row, missing: Mapping[str, Remedy]) -> tuple[str, ...]:
    if row.cell is None or row.run or missing[_label(row.cell)].possible:
        return row.texts
    return tuple("cannot be run" if text == _NOT_RUN else text for text in row.texts)


def _label(cell: Cell) -> str:
    parts = [cell.task, cell.model, cell.method]
    if cell.share is not None:
        parts.append(share(cell.share))
    if cell.train_fraction is not None:
        parts.append(f"{share(cell.train_fraction)} of the data")
    if cell.shots is not None:
        parts.append(f"{cell.shots} examples")
    return ", ".join(part for part in parts if part)


def _matched(
    table: PublishedTable, ours: Sequence[_Ours]
) -> tuple[list[tuple[Cell, list[_Ours]]], list[_Ours]]:
    """Return every cell with those of ours that it is of, and the rest of ours."""
    found = [(cell, [one for one in ours if one.of(cell)]) for cell in table.cells]
    used = {id(one) for _, ones in found for one in ones}
    return found, [one for one in ours if id(one) not in used]


# ---------------------------------------------------------------------------------------------
# Scores: macro-F1 or accuracy by task, model and method


def _scores(table: PublishedTable, ours: Sequence[_Ours]) -> tuple[tuple[str, ...], list[_Row]]:
    what = _WHAT.get(table.name, "Share")
    columns = ("Task", "Model", "Method", what, "Published", "Ours", "Seeds", "95% interval",
               "Training rows", "Ours - published", *_seconds_columns(table))  # fmt: skip
    cells, others = _matched(table, ours)
    rows = []
    for cell, ones in cells:
        start = (cell.task or MISSING, cell.model or MISSING)
        if not ones:
            nothing = (score(cell.value), _NOT_RUN, *[MISSING] * 4, *_seconds(table, cell, None))
            rows.append(_Row(cell, False, (*start, cell.method, _what(cell), *nothing)))
        for one in ones:
            texts = (*start, one.name, _what(cell), *_result(table, one, cell))
            rows.append(_Row(cell, True, texts))
    for one in others:
        texts = (one.task, _model(one), one.name, _setting(table, one), *_result(table, one, None))
        rows.append(_Row(None, True, texts))
    return columns, rows


def _seconds_columns(table: PublishedTable) -> tuple[str, ...]:
    timed = any(cell.seconds_per_epoch is not None for cell in table.cells)
    return ("Published s an epoch", "Our s an epoch") if timed else ()


def _seconds(table: PublishedTable, cell: Cell | None, one: _Ours | None) -> tuple[str, ...]:
    """Return published and our seconds of an epoch, for a table that has them."""
    if not _seconds_columns(table):
        return ()
    theirs = cell.seconds_per_epoch if cell else None
    runs = one.arm.runs if one else ()
    own = mean(_quotient(run.train_seconds, run.epochs) for run in runs)
    return tuple(MISSING if value is None else f"{value:.3g}" for value in (theirs, own))


def _what(cell: Cell) -> str:
    if cell.shots is not None:
        return str(cell.shots)
    return share(cell.share if cell.train_fraction is None else cell.train_fraction)


def _setting(table: PublishedTable, one: _Ours) -> str:
    if table.name == "prompting":
        return MISSING if one.shots is None else str(one.shots)
    return share(one.fraction) if table.name == "imdb_small_models" else one.share


def _result(table: PublishedTable, one: _Ours, cell: Cell | None) -> tuple[str, ...]:
    """Return published, ours, seeds, interval, training rows, difference, and seconds if any."""
    values = one.arm.values
    if table.metric == "accuracy":
        values = [run.test_accuracy for run in one.arm.runs if run.test_accuracy is not None]
    estimate = statistics.mean_estimate(values)
    difference = MISSING
    if cell is not None and estimate.mean is not None:
        difference = signed(estimate.mean - cell.value) if one.whole_corpus else "other data"
        if cell.train_fraction is not None:
            difference = signed(estimate.mean - cell.value)
    rows = one.first.train_rows
    return (
        score(cell.value) if cell else MISSING,
        spread(estimate),
        str(estimate.n),
        interval(estimate.low, estimate.high),
        MISSING if rows is None else f"{rows:,}",
        difference,
        *_seconds(table, cell, one),
    )


def _best_temperatures(ours: Sequence["_Ours"]) -> list["_Ours"]:
    """Return of prompts that differ in their temperature alone the best one on the dev split."""
    best: dict[tuple[str, str, str, int | None], tuple[float, _Ours]] = {}
    for one in ours:
        key = (one.first.task, one.first.corpus_digest, one.first.model, one.shots)
        dev = mean(run.dev_macro_f1 for run in one.arm.runs) or 0.0
        if one.first.phase == "prompt" and (key not in best or dev > best[key][0]):
            best[key] = dev, one
    return [one for _, one in best.values()]


# ---------------------------------------------------------------------------------------------
# Stability


def _stability(table: PublishedTable, ours: Sequence[_Ours]) -> tuple[tuple[str, ...], list[_Row]]:
    columns = (
        "Task",
        "Model",
        "Method",
        "Published variance",
        "Published / full",
        "Seeds",
        "Our variance (points²)",
        "95% interval",
        "Ours / full",
        "95% interval (F)",
    )
    full = {cell.task: cell.value for cell in table.cells if cell.method == "full"}
    cells, others = _matched(table, ours)
    rows = []
    for cell, ones in cells:
        theirs = (f"{cell.value:g}", multiple(cell.value / full[cell.task]))
        task = cell.task or MISSING
        if not ones:
            empty = (task, "not stated", cell.method, *theirs, MISSING, _NOT_RUN, *[MISSING] * 3)
            rows.append(_Row(cell, False, empty))
        for one in ones:
            texts = (task, _model(one), one.name, *theirs, *_variance(one, ours))
            rows.append(_Row(cell, True, texts))
    for one in others:
        texts = (one.task, _model(one), one.name, MISSING, MISSING, *_variance(one, ours))
        rows.append(_Row(None, True, texts))
    return columns, rows


def _variance(one: _Ours, ours: Sequence[_Ours]) -> tuple[str, ...]:
    """Return seeds, variance and its interval, ratio to full finetuning and its interval."""
    values = one.arm.values
    found, bounds = variance.sample_variance(values), variance.variance_interval(values)
    full = _full_of(one, ours)
    ratio = variance.variance_ratio(values, full.arm.values) if full else None
    compared = ratio is not None and ratio.ratio is not None and full is not one
    return (
        str(len(values)),
        MISSING if found is None else _figures(_POINTS * found),
        " to ".join(_figures(_POINTS * bound) for bound in bounds) if bounds else MISSING,
        multiple(ratio.ratio) if ratio and compared else MISSING,
        f"{multiple(ratio.low)} to {multiple(ratio.high)}" if ratio and compared else MISSING,
    )


def _full_of(one: _Ours, ours: Sequence[_Ours]) -> _Ours | None:
    """Return full finetuning of the same model on the same corpus."""

    def place(other: _Ours) -> tuple[str, str]:
        return other.first.model, other.first.corpus_digest

    same = (other for other in ours if other.first.method == "full" and place(other) == place(one))
    return next(same, None)


# ---------------------------------------------------------------------------------------------
# Costs


def _costs(table: PublishedTable, ours: Sequence[_Ours]) -> tuple[tuple[str, ...], list[_Row]]:
    columns = ("Model", "Method", "Published TFLOP", "/ full", "Our TFLOP", "/ full",
               "Published GB", "/ full", "Our GB of a step", "/ full", "Our GB at peak",
               "Tasks")  # fmt: skip
    full = next(cell for cell in table.cells if cell.method == "full")
    groups: dict[tuple[str, str], list[_Ours]] = {}
    for one in ours:
        groups.setdefault((_model(one), one.name), []).append(one)
    rows = []
    for cell in table.cells:
        assert cell.peak_gpu_gb is not None
        assert full.peak_gpu_gb is not None
        theirs = (f"{cell.value:g}", multiple(cell.value / full.value), f"{cell.peak_gpu_gb:g}",
                  multiple(cell.peak_gpu_gb / full.peak_gpu_gb))  # fmt: skip
        start = (cell.model or MISSING, cell.method)
        matched = [key for key, ones in groups.items() if ones[0].of(cell)]
        if not matched:
            texts = (*start, *theirs[:2], _NOT_RUN, MISSING, *theirs[2:], *[MISSING] * 4)
            rows.append(_Row(cell, False, texts))
        for key in matched:
            rows.append(_Row(cell, True, _cost_texts(key, theirs, groups.pop(key), ours)))
    for key, ones in groups.items():
        rows.append(_Row(None, True, _cost_texts(key, (MISSING,) * 4, ones, ours)))
    return columns, rows


def _cost_texts(
    key: tuple[str, str], theirs: tuple[str, ...], ones: Sequence[_Ours], ours: Sequence[_Ours]
) -> tuple[str, ...]:
    pairs = [(one, full) for one in ones if (full := _full_of(one, ours)) is not None]
    flops = mean(_epoch_flops(one) for one in ones)
    memory = mean(_step_bytes(one) for one in ones)
    peaks = [run.peak_memory_bytes for one in ones for run in one.arm.runs
             if run.peak_memory_bytes is not None]  # fmt: skip
    kinds = sorted({run.memory_kind for one in ones for run in one.arm.runs if run.memory_kind})
    return (
        *key,
        *theirs[:2],
        MISSING if flops is None else _figures(flops / 1e12),
        multiple(mean(_quotient(_epoch_flops(one), _epoch_flops(full)) for one, full in pairs)),
        *theirs[2:],
        MISSING if memory is None else f"{memory / 1e9:.3g}",
        multiple(mean(_quotient(_step_bytes(one), _step_bytes(full)) for one, full in pairs)),
        f"{max(peaks) / 1e9:.3g} ({' and '.join(kinds)})" if peaks else MISSING,
        str(len({one.task for one in ones})),
    )


def _figures(value: float) -> str:
    """Return a number to three figures, or to its whole part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _epoch_flops(one: _Ours) -> float | None:
    """Return the operations of an epoch over 5,000 rows as long as the corpus's."""
    return mean(_per_row(run) for run in one.arm.runs)


def _per_row(run: RunRecord) -> float | None:
    if run.flops_per_epoch is None or not run.samples_per_second or not run.train_seconds:
        return None
    rows = run.samples_per_second * run.train_seconds / run.epochs
    return _SAMPLES * run.flops_per_epoch / rows


def _step_bytes(one: _Ours) -> float | None:
    return mean(run.step_memory_bytes for run in one.arm.runs)


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


# ---------------------------------------------------------------------------------------------
# Ablation


def _ablation(table: PublishedTable, ours: Sequence[_Ours]) -> tuple[tuple[str, ...], list[_Row]]:
    columns = ("Task", "Model", "Method", "Without tokens", "With tokens", "Seeds",
               "Gain in F1", "95% interval", "Relative gain")  # fmt: skip
    pairs: dict[str, dict[bool, _Ours]] = {}
    for one in ours:
        pairs.setdefault(_but_tokens(one), {})[bool(one.method.get("task_tokens"))] = one
    rows = [
        _Row(None, True, _gain(pair[False], pair[True]))
        for pair in pairs.values()
        if len(pair) == 2
    ]
    return columns, rows


def _but_tokens(one: _Ours) -> str:
    """Return what a configuration has in common with the one with or without task tokens."""
    apart = ("task_tokens", "new_rows", "new_rows_init")
    method = {name: value for name, value in one.method.items() if name not in apart}
    training = json.loads(one.first.config_json)["training"]
    return json.dumps([one.first.model, one.first.corpus_digest, method, training], sort_keys=True)


def _gain(without: _Ours, with_tokens: _Ours) -> tuple[str, ...]:
    a, b = paired_scores(with_tokens.arm, without.arm)
    found = statistics.paired_difference(a, b)
    base = statistics.mean_estimate(b).mean
    relative = MISSING if found.mean is None or not base else f"{100 * found.mean / base:+.1f}%"
    return (
        without.task,
        _model(without),
        without.first.method,
        spread(without.arm.estimate),
        spread(with_tokens.arm.estimate),
        str(found.n),
        signed(found.mean),
        interval(found.low, found.high, signs=True),
        relative,
    )


def _usual(one: _Ours) -> bool:
    return one.usual_tokens and one.first.phase != "prompt"


def _shares(one: _Ours) -> bool:
    return _usual(one) and one.first.method == "adapt"


_RELEVANT: Mapping[TableName, Callable[[_Ours], bool]] = {
    "macro_f1": _usual,
    "sparsity": _shares,
    "large_shares": _shares,
    "ablation": lambda one: one.first.phase != "prompt",
    "costs": _usual,
    "stability": _usual,
    "imdb_small_models": lambda one: _usual(one) and one.task == TASKS["imdb"],
    "prompting": lambda one: one.first.phase == "prompt",
}
_WHAT: Mapping[TableName, str] = {"imdb_small_models": "Data", "prompting": "Examples"}
_ROWS = (
    "Ours: mean and standard deviation of test macro-F1 over seeds, with the t interval from two "
    "seeds on. A difference is given only where the runs trained on about as many rows as the "
    "paper's corpus has; a row marked as another model holds no figure of the paper."
)
_OURS: Mapping[TableName, tuple[str, ...]] = {
    "macro_f1": (_ROWS,),
    "sparsity": (_ROWS, "A share of the encoder is another share than the paper's."),
    "large_shares": (_ROWS, "A share of the encoder is another share than the paper's."),
    "ablation": (
        "Ours: gains of the same seeds with task tokens over without, all else equal. "
        "python jobs/stability.py jobs/recipes/paper/ablation.yaml runs the paper's methods.",
    ),
    "costs": (
        "Ours: counted operations of an epoch over 5,000 rows as long as the corpus's; memory of "
        "a step is weights, gradients, optimizer state and saved tensors; the peak is the "
        "device's (cuda) or the whole process's (rss). Ratios are means over tasks.",
    ),
    "stability": (
        "Ours: sample variance of test macro-F1 over seeds; its interval is the chi-square one, "
        "that of a ratio the F interval of independent samples, both for normal scores.",
    ),
    "imdb_small_models": (
        "Ours: test accuracy; the column of data is training rows over training and test rows.",
    ),
    "prompting": (
        _ROWS,
        "Ours: the temperature that is best on the dev split; seeds draw the examples and sample.",
    ),
}
