"""The sections on other rows, other tasks and sources of spread."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from adapt_ray.report import aggregate, evidence, groups, rows
from adapt_ray.report.rows import Answers
from adapt_ray.report.writer import Writer

if TYPE_CHECKING:
    from adapt_ray.records import RunRecord
    from tests.report.conftest import Made


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path, {})


def said_by(runs: list["RunRecord"], n: int = 60) -> dict[str, Answers]:
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 2
    return {
        run.run_id: Answers(
            np.arange(n),
            np.arange(n) // 2,
            labels,
            np.where(rng.random(n) < 0.2, 1 - labels, labels),
        )
        for run in runs
    }


def test_other_rows_of_every_arm(made: "type[Made]", writer: Writer) -> None:
    runs = made.final_runs({"full": 0.8, "adapt": 0.81}, seeds=4)
    (study,) = groups.studies(runs)
    said = said_by(runs)
    text = "\n".join(evidence.other_rows(writer, study, said))
    arm = next(arm for arm in groups.final_arms(runs) if arm.label == "full")
    found = rows.crossed([said[run.run_id] for run in arm.runs])
    mean = rows.arm_interval(found)
    assert f"| full | {mean.estimate:.3f} | {mean.low:.3f} to {mean.high:.3f} |" in text
    assert "| adapt - full | 4 |" in text
    assert evidence.other_rows(writer, study, {}) == []


def test_one_seed_has_an_interval_over_rows_alone(made: "type[Made]", writer: Writer) -> None:
    runs = made.final_runs({"full": 0.8}, seeds=1)
    (study,) = groups.studies(runs)
    text = "\n".join(evidence.other_rows(writer, study, said_by(runs)))
    assert text.rstrip().endswith("| - | - | - |")


def test_tasks_are_put_together(made: "type[Made]", writer: Writer) -> None:
    runs = [
        run
        for number, task in enumerate(["one", "two", "three"])
        for run in made.final_runs({"full": 0.8 - 0.1 * number, "adapt": 0.9}, task=task)
    ]
    studies = groups.studies(runs)
    text = "\n".join(evidence.across_tasks(writer, studies))
    assert "## Three corpora together" in text
    values = [arm.values for study in studies for arm in groups.final_arms(study.runs)
              if arm.label == "adapt"]  # fmt: skip
    middle = aggregate.interquartile_mean(values)
    assert middle is not None
    assert (
        f"| adapt | {middle.estimate:.3f} | {middle.low:.3f} to {middle.high:.3f} | 100% |" in text
    )
    assert "| full |" in text
    assert (writer.folder / "profiles.png").stat().st_size > 5000
    assert evidence.across_tasks(writer, studies[:1]) == []


def test_sources_of_spread_in_words_and_numbers(made: "type[Made]", writer: Writer) -> None:
    """Initialisation moves the score by 2 points, the rest by 1, and they add up."""
    steps = np.array([-1.0, 0.0, 1.0])
    scores = 0.8 + 0.02 * steps[:, None] + 0.01 * steps[None, :]
    runs = [
        made.run(seed=j, test_macro_f1=float(scores[i, j]),
                 settings={"training.initialisation_seed": i})
        for i, j in np.ndindex(scores.shape)
    ]  # fmt: skip
    text = "\n".join(evidence.spread_sources(writer, runs, said_by(runs)))
    assert "3 of initialisation x 3 of data order and dropout" in text
    assert "80% initialisation, 20% data order and dropout" in text
    assert "| initialisation | 4 | " in text
    assert "| data order and dropout | 1 | " in text
    assert "sampling of the test set (apart, by bootstrap)" in text
    assert evidence.spread_sources(writer, runs[:3], {}) == []
