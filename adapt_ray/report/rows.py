"""What another test set would have shown: the bootstrap over test rows, clustered by source text.

Rows of one text are no independent evidence, so texts are drawn, with all their rows. A text counts
by its confusion counts: a resample of texts is a vector of weights, and the scores of all runs on
it are one product of matrices. Rows and seeds are crossed (every run predicts the same rows), so
both are resampled where both are to vary (Owen 2007); that is conservative where their interaction
is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from adapt_ray.report import bootstrap
from adapt_ray.report.bootstrap import Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1000
_AT_ONCE = 4_000_000  # numbers in a block of weights


@dataclass(frozen=True)
class Answers:
    """What one run said of the test rows, in the order of their ids."""

    row_ids: Ints  # [rows]
    text_ids: Ints  # [rows]
    labels: Ints  # [rows]
    predicted: Ints  # [rows]


@dataclass(frozen=True)
class Sampling:
    """Where the spread of an arm's test score comes from, as variances of a single run's score."""

    rows: float  # of other test sets of this size, the seed as it is
    seeds: float  # of other seeds, the test set as it is
    both: float  # what neither explains by itself: seeds that differ on other rows

    @property
    def share_of_rows(self) -> float | None:
        """Share of the whole variance that is due to the rows alone; None without any."""
        total = self.rows + self.seeds + self.both
        return self.rows / total if total else None


def answers(predictions: pa.Table) -> Answers | None:
    """Return the test answers of a run's predictions (PREDICTIONS_SCHEMA); None without any."""
    test = predictions.filter(pc.field("split") == "test").sort_by("row_id")
    if not len(test):
        return None
    values = pc.list_flatten(test["logits"]).to_numpy().reshape(len(test), -1)
    rows, texts, labels = (test[name].to_numpy() for name in ("row_id", "text_id", "label"))
    return Answers(rows, texts, labels, values.argmax(1).astype(np.int64))


@dataclass(frozen=True)
class Crossed:
    """Macro-F1 of runs on resampled test sets."""

    observed: Floats  # [runs]
    replicates: Floats  # [B, runs]; a row is one resample of the texts, the same for all runs


def crossed(runs: Sequence[Answers], resamples: int = RESAMPLES) -> Crossed:
    """Score runs on resamples of their texts. Raises ValueError where runs saw other rows."""
    first = runs[0]
    for run in runs:
        same = np.array_equal(run.row_ids, first.row_ids)
        if not (same and np.array_equal(run.labels, first.labels)):
            raise ValueError(
                "runs answered different test rows, so they cannot be resampled as one"
            )
    counts = _counts(runs)
    rng = np.random.default_rng(0)
    block = max(1, _AT_ONCE // len(counts))
    replicates = [
        _macro_f1(np.tensordot(_weights(rng, min(block, resamples - done), len(counts)), counts, 1))
        for done in range(0, resamples, block)
    ]
    return Crossed(_macro_f1(counts.sum(0)[None])[0], np.concatenate(replicates))


def _counts(runs: Sequence[Answers]) -> Floats:
    """Return hits, rows predicted and rows labelled [texts, runs, 3, classes] of each text."""
    first = runs[0]
    _, text_of = np.unique(first.text_ids, return_inverse=True)
    texts = int(text_of.max()) + 1
    classes = 1 + max(int(max(run.labels.max(), run.predicted.max())) for run in runs)
    counts = np.zeros((texts, len(runs), 3, classes))
    for number, run in enumerate(runs):
        hits = run.predicted == run.labels
        ours = counts[:, number]
        np.add.at(ours[:, 0], (text_of[hits], run.labels[hits]), 1)
        np.add.at(ours[:, 1], (text_of, run.predicted), 1)
        np.add.at(ours[:, 2], (text_of, run.labels), 1)
    return counts


def _weights(rng: np.random.Generator, resamples: int, texts: int) -> Floats:
    """Return how often each text is drawn [resamples, texts], with replacement."""
    drawn = rng.integers(texts, size=(resamples, texts)) + texts * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * texts)
    return counts.reshape(resamples, texts).astype(np.float64)


def _macro_f1(totals: Floats) -> Floats:
    """Return macro-F1 [B, runs] of counts [B, runs, 3, classes], over the classes that occur."""
    hits, members = totals[..., 0, :], totals[..., 1, :] + totals[..., 2, :]
    f1 = 2 * hits / np.maximum(members, 1)
    mean: Floats = f1.sum(-1) / (members > 0).sum(-1)
    return mean


def arm_interval(found: Crossed) -> Interval:
    """Return the mean macro-F1 of an arm, both its seeds and the test rows resampled."""
    return bootstrap.percentile(float(found.observed.mean()), _seeds_drawn(found.replicates))


def run_interval(found: Crossed, run: int) -> Interval:
    """Return one run's macro-F1, the test rows resampled."""
    return bootstrap.percentile(float(found.observed[run]), found.replicates[:, run])


def difference_interval(a: Crossed, b: Crossed) -> Interval:
    """Return the mean difference a - b of paired seeds, seeds and test rows resampled.

    ``a`` and ``b`` hold the same seeds in the same order and were scored on the same rows, so that
    their resamples are the same.
    """
    difference = a.replicates - b.replicates
    return bootstrap.percentile(float((a.observed - b.observed).mean()), _seeds_drawn(difference))


def _seeds_drawn(replicates: Floats) -> Floats:
    """Return means [B] over seeds drawn anew for every resample of rows [B, seeds]."""
    rng = np.random.default_rng(1)
    seeds = rng.integers(replicates.shape[1], size=replicates.shape)
    mean: Floats = np.take_along_axis(replicates, seeds, 1).mean(1)
    return mean


def sampling(found: Crossed) -> Sampling | None:
    """Split the variance of a single run's score among rows, seeds and both; None for one seed.

    A two-way random-effects analysis of the resamples [B, seeds]: the mean square of resamples and
    that of what is left give the rows and the interaction. The variance of the observed scores is
    that of seeds and, since they share one test set, of the interaction; it is taken off.
    """
    y = found.replicates
    resamples, seeds = y.shape
    if seeds < 2:
        return None
    left = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    both = float((left**2).sum() / ((resamples - 1) * (seeds - 1)))
    rows = float(y.mean(1).var(ddof=1)) - both / seeds
    of_seeds = float(found.observed.var(ddof=1)) - both
    return Sampling(max(rows, 0.0), max(of_seeds, 0.0), both)
