"""Which runs are joined to a curve over training rows, and which are kept apart."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import pytest

from adapt_ray.records import RunRecord
from adapt_ray.report import drawing, figures, tables
from adapt_ray.report.document import Context, write_report
from adapt_ray.report.groups import studies
from adapt_ray.report.sizes import SizeLine, task_sizes

if TYPE_CHECKING:
    from tests.report.conftest import Made


def on_corpus(
    made: "type[Made]", means: dict[str, float], rows: int, **changes: Any
) -> list[RunRecord]:
    """Return final runs on a corpus with so many training rows."""
    changes = {"corpus_digest": f"corpus{rows}", "test_digest": "t", "test_rows": 50} | changes
    runs = made.final_runs(means, seeds=3, train_rows=rows, **changes)
    return [
        dataclasses.replace(
            run,
            configuration_id=f"{changes['corpus_digest']} {run.configuration_id}",
            run_id=f"{changes['corpus_digest']} {run.run_id}",
        )
        for run in runs
    ]


def sizes_of(line: SizeLine) -> list[int]:
    return [point.train_rows for point in line.points]


def test_sizes_that_share_a_test_split_are_one_curve(made: "type[Made]") -> None:
    runs = on_corpus(made, {"adapt": 0.8, "full": 0.7}, 400)
    runs += on_corpus(made, {"adapt": 0.6, "full": 0.65}, 100)
    runs += on_corpus(made, {"adapt": 0.7}, 200)
    (found,) = task_sizes(runs + made.search_runs(2))
    (curve,) = found.curves
    assert {line.label: sizes_of(line) for line in curve} == {
        "adapt": [100, 200, 400],
        "full": [100, 400],
    }
    first = curve[0].points[0]
    expected = [r.test_macro_f1 for r in runs if r.train_rows == 100 and r.contender == "adapt"]
    assert first.f1 == expected
    assert first.estimates[0].mean == pytest.approx(sum(f for f in expected if f) / 3)


def test_other_test_splits_stand_in_the_table_but_on_no_line(made: "type[Made]") -> None:
    runs = on_corpus(made, {"full": 0.9}, 810, test_digest="small", test_rows=100)
    runs += on_corpus(made, {"full": 0.8}, 270, test_digest="large", test_rows=700)
    (found,) = task_sizes(runs)
    assert found.curves == ()
    rows = tables.sizes(found.lines).rows
    assert [row[:5] for row in rows] == [
        ("full", "270", "700", "corpus", "3"),
        ("full", "810", "100", "corpus", "3"),
    ]


def test_a_task_of_one_corpus_or_without_sizes_is_left_out(made: "type[Made]") -> None:
    runs = on_corpus(made, {"adapt": 0.8, "full": 0.7}, 400)
    runs += on_corpus(made, {"adapt": 0.8}, 100, task="other")
    old = [
        dataclasses.replace(run, corpus_digest="old", train_rows=None, test_rows=None)
        for run in runs
    ]
    unscored = on_corpus(made, {"adapt": 0.8}, 200)
    unscored = [dataclasses.replace(run, test_macro_f1=None) for run in unscored]
    assert task_sizes(runs + old + unscored) == []


def test_configurations_of_one_contender_are_lines_of_their_own(made: "type[Made]") -> None:
    runs = []
    for rows in (100, 400):
        for rate in (1e-4, 3e-4):
            settings = {"training.learning_rate": rate, "training.epochs": 3}
            same = on_corpus(made, {"adapt": 0.8}, rows, settings=settings)
            runs += [
                dataclasses.replace(run, configuration_id=f"{rows} {rate}", run_id=f"{run.seed}")
                for run in same
            ]
        runs += on_corpus(made, {"full": 0.7}, rows)
    (found,) = task_sizes(runs)
    labels = ["adapt (learning_rate 0.0001)", "adapt (learning_rate 0.0003)", "full"]
    assert [line.label for line in found.curves[0]] == labels
    assert [sizes_of(line) for line in found.curves[0]] == [[100, 400]] * 3


def test_a_contender_may_be_tuned_for_every_size(made: "type[Made]") -> None:
    runs = []
    for rows, rate in ((100, 1e-4), (400, 3e-4)):
        settings = {"training.learning_rate": rate}
        runs += on_corpus(made, {"adapt": 0.8}, rows, settings=settings)
    (found,) = task_sizes(runs)
    assert [(line.label, sizes_of(line)) for line in found.curves[0]] == [("adapt", [100, 400])]


def test_two_corpora_of_one_size_are_never_averaged(made: "type[Made]") -> None:
    """A corpus with repeated rows has as many distinct ones as the plain corpus."""
    runs = [run for rows in (100, 200, 400) for run in on_corpus(made, {"full": 0.7}, rows)]
    runs += on_corpus(made, {"full": 0.9}, 200, corpus_digest="repeated")
    (found,) = task_sizes(runs)
    assert [sizes_of(line) for line in found.curves[0]] == [[100, 400]]
    assert [sizes_of(line) for line in found.lines] == [[100, 200, 200, 400]]
    assert all(len(point.runs) == 3 for point in found.lines[0].points)


def test_the_figure_shows_means_from_lowest_to_highest(made: "type[Made]", tmp_path: Path) -> None:
    runs = on_corpus(made, {"adapt": 0.8}, 400) + on_corpus(made, {"adapt": 0.6}, 100)
    (found,) = task_sizes(runs)
    figure = figures.scores_by_size(found.curves[0])
    panels: Any = figure.axes
    for axes, column in zip(panels, ("f1", "accuracy"), strict=True):
        (bars,) = axes.containers
        line, _, (spread,) = bars
        for number, point in enumerate(found.curves[0][0].points):
            values = getattr(point, column)
            assert line.get_xydata()[number].tolist() == [
                point.train_rows,
                pytest.approx(sum(values) / 3),
            ]
            ends = spread.get_segments()[number][:, 1].tolist()
            assert ends == pytest.approx([min(values), max(values)])
        assert axes.get_xscale() == "log"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "400"]
    drawing.save(figure, tmp_path / "sizes.png")
    assert matplotlib.image.imread(tmp_path / "sizes.png").shape[1] == 9 * drawing.DPI


@pytest.mark.filterwarnings("error")
def test_odd_curves_are_drawn(made: "type[Made]", tmp_path: Path) -> None:
    """A size that one contender lacks, one seed, no accuracy, many sizes close together."""
    runs = on_corpus(made, {"$x$": 0.8, "_y": 0.7}, 1000)[:4]
    for rows in (50, 51, 900, 990):
        runs += on_corpus(made, {"$x$": 0.8}, rows, test_accuracy=None)
    (found,) = task_sizes(runs)
    figure = figures.scores_by_size(found.curves[0])
    drawing.save(figure, tmp_path / "sizes.png")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["51", "1,000"]
    assert len(figure.legends[0].get_texts()) == 2


def test_the_report_shows_tables_and_figures(made: "type[Made]", tmp_path: Path) -> None:
    runs = [run for rows in (100, 4000) for run in on_corpus(made, {"full": 0.7}, rows)]
    for rows, digest in ((810, "small"), (270, "large")):
        runs += on_corpus(made, {"full": 0.9}, rows, test_digest=digest, task="other*")
    text = write_report(tmp_path, made.table_of(runs), {}, Context()).read_text(encoding="utf-8")
    assert "## Scores by training rows: demo" in text
    assert "## Scores by training rows: other\\*" in text
    assert text.count("![Test scores by training rows](sizes.png)") == 1
    assert (tmp_path / "sizes.png").is_file()
    assert "### demo (4,000 training rows, corpus corpus)" in text
    assert "| full | 4,000 | 50 |" in text


def test_studies_of_a_task_say_their_size(made: "type[Made]") -> None:
    runs = on_corpus(made, {"full": 0.7}, 8208, corpus_digest="abcdef01")
    runs += on_corpus(made, {"full": 0.7}, 100, task="other")
    runs += [made.run(corpus_digest="123456789")]
    runs += on_corpus(made, {"full": 0.7}, 82, corpus_digest="fedcba98")
    assert [study.label for study in studies(runs)] == [
        "demo (corpus 123456)",
        "demo (82 training rows, corpus fedcba)",
        "demo (8,208 training rows, corpus abcdef)",
        "other",
    ]
