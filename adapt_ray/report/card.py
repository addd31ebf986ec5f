"""The card of an exported model: what it was trained on, how, how well it does, and where it ends.

Numbers come from run records and from counts of the corpus. Everything that comes from users or
corpora is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from adapt_ray.records import RunRecord
from adapt_ray.report.statistics import mean_estimate
from adapt_ray.report.tables import Table, markdown
from adapt_ray.report.wording import escape, interval, operations, score, seconds, share, size

_EXAMPLES = 10  # task tokens that the card shows
_MEMORY = {"rss": "resident memory of the process", "cuda": "memory allocated on the GPU"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the record of the run that made the model."""

    record: RunRecord
    label_names: tuple[str, ...]
    # By split, rows of each class; repeats of oversampling left out.
    class_rows: Mapping[str, tuple[int, ...]]
    leaks: str  # texts that lie in two splits, in words; empty where there are none
    max_tokens: int
    pooling: str
    tokens: tuple[str, ...]  # the task tokens as text
    siblings: tuple[RunRecord, ...]  # finished runs of this configuration with other seeds


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    title = f"# {escape(facts.record.task)}: {escape(facts.record.method)}"
    sections = {
        "Data": _data(facts),
        "Model and method": _method(facts),
        "Scores": _scores(facts),
        "Costs": _costs(facts.record),
        "Limits": _limits(facts),
        "Use": _USE,
        "Made with": _made_with(facts.record),
    }
    blocks = [f"## {heading}\n\n{text}" for heading, text in sections.items()]
    return "\n\n".join([_FRONT, title, *blocks]) + "\n"


def with_section(card: str, name: str, text: str) -> str:
    """Return a card with a section between its markers replaced, or added at the end."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = card.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    return f"{before.rstrip()}\n\n{begin}\n{text.strip()}\n{end}{after}"


_FRONT = "---\nlibrary_name: adapt_ray\npipeline_tag: text-classification\n---"
_USE = """```python
from adapt_ray import load

classifier = load("FOLDER")  # checks every file, runs no code from it
classifier.predict(["A text.", "Another one."]).labels
```

`python jobs/predict.py --model FOLDER --data.source FILE` classifies a corpus, and
`serve run adapt_ray.distributed.serve:app model=FOLDER` answers requests."""


def _data(facts: CardFacts) -> str:
    table = Table(
        ("split", "rows", *facts.label_names),
        tuple(
            (split, f"{sum(rows):,}", *(f"{count:,}" for count in rows))
            for split, rows in facts.class_rows.items()
        ),
    )
    leaks = facts.leaks or "No text lies in two splits."
    return f"Corpus: {escape(facts.record.task)}.\n\n{markdown(table)}\n\n{_sentence(leaks)}"


def _method(facts: CardFacts) -> str:
    record = facts.record
    training = json.loads(record.config_json).get("training", {})
    rows = [
        ("pretrained model", _short(record.model)),
        ("method", record.method),
        ("trained share of the pretrained parameters", share(record.trained_share)),
        ("trained parameters, head and new embeddings included", _count(record.trained_parameters)),
        ("parameters", _count(record.total_parameters)),
        ("pooling", facts.pooling),
        ("longest input, tokens", f"{facts.max_tokens:,}"),
        *((name, str(training[key])) for key, name in _TRAINING.items() if key in training),
        ("epochs trained", f"{record.epochs:,}"),
        ("precision", record.precision),
        ("run seed", str(record.seed)),
    ]
    return f"{markdown(Table(('what', 'value'), tuple(rows)))}\n\n{_tokens(facts)}"


_TRAINING = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
}


def _tokens(facts: CardFacts) -> str:
    if not facts.tokens:
        return "No task tokens."
    shown = ", ".join(f"“{escape(token)}”" for token in facts.tokens[:_EXAMPLES])
    of_them = "" if len(facts.tokens) <= _EXAMPLES else ", among them"
    inserted = share(facts.record.inserted_token_share)
    return (
        f"{len(facts.tokens):,} task tokens{of_them}: {shown}. They add {inserted} to the tokens "
        "of the training texts."
    )


def _scores(facts: CardFacts) -> str:
    record = facts.record
    rows = [
        ("macro-F1", score(record.dev_macro_f1), score(record.test_macro_f1)),
        ("accuracy", score(record.dev_accuracy), score(record.test_accuracy)),
    ]
    per_class = zip(
        facts.label_names,
        record.dev_per_class_f1 or [None] * len(facts.label_names),
        record.test_per_class_f1 or [None] * len(facts.label_names),
        strict=True,
    )
    rows += [(f"F1 of {name}", score(dev), score(test)) for name, dev, test in per_class]
    table = markdown(Table(("score of this model", "dev", "test"), tuple(rows)))
    majority = score(record.majority_macro_f1)
    naive = f"Always answering the most frequent class has a dev macro-F1 of {majority}."
    return f"{table}\n\n{naive}\n\n{_over_seeds(facts)}"


def _over_seeds(facts: CardFacts) -> str:
    runs = [facts.record, *facts.siblings]
    if len(runs) == 1:
        return (
            "This is one seed: no other run of this configuration was on record when the model was "
            "written, so how far the scores vary over seeds is not known."
        )
    seeds = ", ".join(str(run.seed) for run in sorted(runs, key=lambda run: run.seed))
    lines = [f"{len(runs)} runs of this configuration are on record (seeds {seeds})."]
    for split in ("dev", "test"):
        values = [getattr(run, f"{split}_macro_f1") for run in runs]
        found = mean_estimate([value for value in values if value is not None])
        if found.n > 1:
            between = interval(found.low, found.high)
            lines.append(
                f"Mean {split} macro-F1 over {found.n} seeds: {score(found.mean)}, 95% t interval "
                f"{between}."
            )
    return " ".join(lines)


def _costs(record: RunRecord) -> str:
    memory = _MEMORY.get(record.memory_kind or "", "memory")
    rows = [
        ("training time", seconds(record.train_seconds)),
        ("floating-point operations of training", operations(record.train_flops)),
        (f"peak {memory}", size(record.peak_memory_bytes)),
        ("workers", str(record.world_size)),
        ("machine", record.machine),
    ]
    return markdown(Table(("cost", "value"), tuple(rows)))


def _limits(facts: CardFacts) -> str:
    record = facts.record
    train = facts.class_rows["train"]
    scarce = min(range(len(train)), key=train.__getitem__)
    common = max(range(len(train)), key=train.__getitem__)
    points = [
        "Language, domain and classes are those of the training texts; other sources, other times "
        "and inputs that belong to no class were not tested.",
        f"Of the training rows, {train[common]:,} are of {escape(facts.label_names[common])} and "
        f"{train[scarce]:,} of {escape(facts.label_names[scarce])}: expect more errors on scarce "
        "classes.",
        f"Texts are cut to {facts.max_tokens:,} tokens; so were {record.truncated_texts:,} of the "
        "training texts.",
        "Probabilities were not calibrated.",
    ]
    if facts.tokens:
        points.append("Task tokens are phrases of the training texts, for all to read.")
    if record.test_macro_f1 is None:
        points.append("The test split was not scored: dev scores may be those it was chosen by.")
    return "\n".join(f"- {point}" for point in points)


def _made_with(record: RunRecord) -> str:
    versions = json.loads(record.versions_json)
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{escape(listed)}; adapt_ray at revision {escape(record.git_revision)}. "
        f"Run {record.run_id}, started {escape(record.started_at)}."
    )


def _short(model: str) -> str:
    """Return a hub id as it is, and a folder by its name: where it lay says nothing elsewhere."""
    return PurePath(model).name if model.startswith((".", "/", "~")) else model


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:].rstrip(".") + ".")


def sibling_runs(record: RunRecord, others: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Return the successful runs of a record's configuration with other seeds, each seed once."""
    found = {
        run.seed: run
        for run in others
        if run.configuration_id == record.configuration_id
        and run.status == "ok"
        and run.seed != record.seed
    }
    return tuple(found.values())
