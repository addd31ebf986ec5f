"""Finding crossed runs among records."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from adapt_ray.report import groups
from adapt_ray.report.contributions import contributions
from adapt_ray.report.sources import SPLIT, crossings

if TYPE_CHECKING:
    from adapt_ray.records import RunRecord
    from tests.report.conftest import Made

RATE = {"training.learning_rate": 1e-4}


def crossed(
    made: "type[Made]", scores: np.ndarray, field: str, **changes: Any
) -> list["RunRecord"]:
    """Return runs of a table [levels of a stream, run seeds]."""
    return [
        made.run(
            seed=100 + j,
            test_macro_f1=float(scores[i, j]),
            settings={**RATE, f"training.{field}": i},
            **changes,
        )
        for i, j in np.ndindex(scores.shape)
    ]


def test_a_stream_beside_the_run_seed_is_a_table_of_two_sources(made: "type[Made]") -> None:
    scores = np.random.default_rng(1).uniform(0.7, 0.8, (3, 4))
    runs = crossed(made, scores, "initialisation_seed")
    (found,) = crossings(runs[::-1])
    assert found.sources == ("initialisation", "data order and dropout")
    assert np.array_equal(found.scores, scores)
    assert [run.test_macro_f1 for run in found.runs] == scores.ravel().tolist()
    assert found.contributions() == contributions(scores, found.sources)
    assert found.left_out == 0


def test_splits_are_a_source(made: "type[Made]") -> None:
    scores = np.random.default_rng(2).uniform(0.7, 0.8, (3, 5))
    runs = [
        made.run(seed=j, test_macro_f1=float(scores[i, j]), corpus_digest=f"c{i}",
                 test_digest=f"t{i}", train_rows=300 + i, test_rows=100)
        for i, j in np.ndindex(scores.shape)
    ]  # fmt: skip
    (found,) = crossings(runs)
    assert found.sources == (SPLIT, "run seed")
    assert np.array_equal(found.scores, scores)


def test_ordinary_comparisons_cross_nothing(made: "type[Made]") -> None:
    runs = made.final_runs({"full": 0.8, "adapt": 0.81})
    assert crossings(runs) == []
    assert crossings(made.search_runs(3)) == []


def test_an_incomplete_table_loses_the_seeds_that_are_missing_somewhere(made: "type[Made]") -> None:
    scores = np.random.default_rng(3).uniform(0.7, 0.8, (3, 4))
    runs = crossed(made, scores, "data_order_seed")
    lost = [run for run in runs if (run.seed, run.test_macro_f1) != (101, scores[2, 1])]
    (found,) = crossings(lost)
    assert np.array_equal(found.scores, scores[:, [0, 2, 3]])
    assert found.left_out == 2


def test_other_settings_and_other_streams_are_other_tables(made: "type[Made]") -> None:
    scores = np.random.default_rng(4).uniform(0.7, 0.8, (2, 3))
    runs = crossed(made, scores, "data_order_seed") + crossed(made, scores, "initialisation_seed")
    runs += crossed(made, scores, "dropout_seed", contender="full")
    runs += made.final_runs({"adapt": 0.8}, settings=RATE)
    found = crossings(runs)
    assert [one.sources[0] for one in found] == ["data order", "initialisation", "dropout"]


@pytest.mark.parametrize("count", [1, 2])
def test_arms_are_told_apart_by_the_seeds_of_their_streams(made: "type[Made]", count: int) -> None:
    runs = crossed(made, np.full((count, 2), 0.8), "initialisation_seed")
    labels = [arm.label for arm in groups.final_arms(runs)]
    expected = ["adapt (initialisation seed 0)", "adapt (initialisation seed 1)"]
    assert labels == (expected if count == 2 else ["adapt"])
