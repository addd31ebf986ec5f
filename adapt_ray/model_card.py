"""What is known of a model when it is exported, for its card."""

from collections.abc import Sequence

import numpy as np

from adapt_ray.records import RunRecord
from adapt_ray.report.card import CardFacts, sibling_runs
from adapt_ray.training.run import Inputs, RunPlan


def card_facts(
    plan: RunPlan, inputs: Inputs, record: RunRecord, recorded: Sequence[RunRecord]
) -> CardFacts:
    """Collect what a run's model card says; ``recorded`` are the other records of the storage."""
    corpus, tokenizer = inputs.corpus, inputs.tokenizer
    classes = len(corpus.label_names)
    class_rows = {}
    for name, split in corpus.splits.items():
        _, first = np.unique(split.row_ids, return_index=True)
        class_rows[name] = tuple(np.bincount(split.labels[first], minlength=classes).tolist())
    return CardFacts(
        record=record,
        label_names=corpus.label_names,
        class_rows=class_rows,
        leaks=corpus.leaks.in_words(),
        max_tokens=plan.model.max_tokens,
        pooling=plan.model.pooling,
        tokens=tuple(tokenizer.token_text(sequence) for sequence in tokenizer.tokens.sequences),
        siblings=sibling_runs(record, recorded),
    )
