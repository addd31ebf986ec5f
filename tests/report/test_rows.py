"""The bootstrap over test rows against a loop over rows, scikit-free scores and simulation."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_ray.records import PREDICTIONS_SCHEMA
from adapt_ray.report import rows
from adapt_ray.report.rows import Answers
from adapt_ray.training.evaluate import score


def made(
    labels: np.ndarray, texts: np.ndarray, seeds: int, rng: np.random.Generator, right: float = 0.8
) -> list[Answers]:
    """Return runs that are right about most rows, and about the same ones more often."""
    n, classes = len(labels), int(labels.max()) + 1
    hard = rng.random(n)
    found = []
    for _ in range(seeds):
        wrong = 0.7 * hard + 0.3 * rng.random(n) > right
        predicted = np.where(wrong, (labels + 1) % classes, labels)
        found.append(Answers(np.arange(n), texts, labels, predicted))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(3, 30))
def test_resampled_scores_are_those_of_a_loop_over_drawn_texts(
    seed: int, classes: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    texts = rng.integers(max(1, n // 2), size=n) * 7
    runs = [Answers(np.arange(n), texts, labels, rng.integers(classes, size=n)) for _ in range(2)]
    found = rows.crossed(runs, resamples=5)
    names = np.unique(texts)
    drawn = np.random.default_rng(0).integers(len(names), size=(5, len(names)))
    for run, answers in enumerate(runs):
        whole = score(labels, answers.predicted, classes).macro_f1
        assert found.observed[run] == pytest.approx(whole)
        for number in range(5):
            at = np.concatenate([np.flatnonzero(texts == names[i]) for i in drawn[number]])
            expected = score(labels[at], answers.predicted[at], classes).macro_f1
            assert found.replicates[number, run] == pytest.approx(expected)


def test_blocks_of_weights_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    runs = made(rng.integers(3, size=50), np.arange(50), 2, rng)
    whole = rows.crossed(runs, resamples=20)
    monkeypatch.setattr(rows, "_AT_ONCE", 300)
    assert np.array_equal(rows.crossed(runs, resamples=20).replicates, whole.replicates)


def test_one_run_has_the_spread_of_a_binomial_share() -> None:
    """Where both classes are alike, macro-F1 moves as accuracy does."""
    rng = np.random.default_rng(2)
    labels = np.arange(2000) % 2
    run = made(labels, np.arange(2000), 1, rng)
    found = rows.crossed(run)
    accuracy = float((run[0].predicted == labels).mean())
    expected = (accuracy * (1 - accuracy) / 2000) ** 0.5
    assert found.replicates[:, 0].std() == pytest.approx(expected, rel=0.1)
    interval = rows.run_interval(found, 0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * expected, rel=0.1)


def test_rows_of_one_text_are_one_piece_of_evidence() -> None:
    """Ten copies of every row add nothing to what is known."""
    rng = np.random.default_rng(3)
    labels = np.arange(100) % 2
    (once,) = made(labels, np.arange(100), 1, rng)
    copies = [np.repeat(x, 10) for x in (once.text_ids, once.labels, once.predicted)]
    repeated = Answers(np.arange(1000), *copies)
    one, ten = (rows.crossed([run], resamples=200).replicates for run in (once, repeated))
    assert ten == pytest.approx(one)


def test_pairing_takes_out_what_both_arms_share() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 3
    ours = made(labels, np.arange(600), 6, rng)
    theirs = []
    for run in ours:  # the same answers, but for a few rows
        changed = run.predicted.copy()
        changed[:12] = (labels[:12] + 1) % 3
        theirs.append(Answers(run.row_ids, run.text_ids, labels, changed))
    a, b = rows.crossed(ours), rows.crossed(theirs)
    paired = rows.difference_interval(a, b)
    alone = rows.arm_interval(a)
    assert paired.estimate == pytest.approx((a.observed - b.observed).mean())
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert paired.low > 0


def test_rows_and_seeds_are_told_apart() -> None:
    """Simulated: fresh test sets and fresh seeds give the variances that one of each estimates."""
    rng = np.random.default_rng(5)
    n, seeds = 400, 12

    def predictions(hard: np.ndarray, skill: float) -> np.ndarray:
        return (0.85 * hard + 0.15 * rng.random(n) < skill).astype(np.int64)

    estimates = []
    for _ in range(20):
        hard, labels = rng.random(n), np.ones(n, np.int64)
        labels[: n // 2] = 0
        skills = 0.75 + 0.03 * rng.normal(size=seeds)
        runs = []
        for skill in skills:
            right = predictions(hard, skill)
            predicted = np.where(right == 1, labels, 1 - labels)
            runs.append(Answers(np.arange(n), np.arange(n), labels, predicted))
        found = rows.sampling(rows.crossed(runs, resamples=200))
        assert found is not None
        estimates.append((found.rows, found.seeds, found.both))
    by_rows, by_seeds, by_both = np.mean(estimates, axis=0)
    # P(0.85 h + 0.15 u < s) of uniform h and u is (s - 0.075) / 0.85 in the middle of its range.
    share = (0.75 - 0.075) / 0.85
    assert by_seeds == pytest.approx((0.03 / 0.85) ** 2, rel=0.3)
    assert by_rows + by_both == pytest.approx(share * (1 - share) / n, rel=0.35)
    assert 0 < by_both < by_rows


def test_seeds_and_rows_together_are_wider_than_either() -> None:
    rng = np.random.default_rng(6)
    labels = np.arange(300) % 2
    found = rows.crossed(made(labels, np.arange(300), 5, rng))
    both = rows.arm_interval(found)
    only_rows = found.replicates.mean(1)
    assert both.high - both.low > np.ptp(np.quantile(only_rows, [0.025, 0.975]))
    sampled = rows.sampling(found)
    assert sampled is not None
    assert sampled.share_of_rows is not None
    assert 0 < sampled.share_of_rows < 1
    assert rows.sampling(rows.crossed(made(labels, np.arange(300), 1, rng))) is None


def test_answers_of_recorded_predictions() -> None:
    table = pa.table(
        {
            "row_id": [7, 5, 1],
            "text_id": [70, 50, 10],
            "split": ["test", "test", "dev"],
            "label": [0, 2, 1],
            "logits": [[0.0, 1.0, 0.5], [0.1, 0.0, 3.0], [1.0, 0.0, 0.0]],
        },
        schema=PREDICTIONS_SCHEMA,
    )
    found = rows.answers(table)
    assert found is not None
    assert found.row_ids.tolist() == [5, 7]
    assert found.text_ids.tolist() == [50, 70]
    assert found.labels.tolist() == [2, 0]
    assert found.predicted.tolist() == [2, 1]
    assert rows.answers(table.slice(2)) is None


def test_other_rows_are_refused() -> None:
    one = Answers(*(np.array([0, 1]),) * 4)
    other = Answers(np.array([0, 2]), *(np.array([0, 1]),) * 3)
    with pytest.raises(ValueError, match="different test rows"):
        rows.crossed([one, other])
