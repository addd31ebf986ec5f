"""Figures of a search hold the records they are given, and survive odd ones."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest

from adapt_ray.report import drawing, groups, search_figures
from adapt_ray.report.groups import Configuration
from adapt_ray.report.importance import Importance

if TYPE_CHECKING:
    from tests.report.conftest import Made


def points(axes: Any) -> list[tuple[float, float]]:
    return [tuple(point) for c in axes.collections for point in c.get_offsets().tolist()]


def searched(
    made: "type[Made]", scores: dict[float, list[float]], flops: dict[float, int] | None = None
) -> list[Configuration]:
    """Return configurations of one contender by alpha, with the scores of their seeds."""
    return groups.configurations(
        made.run(
            phase="search",
            seed=seed,
            settings={"method.alpha": alpha, "training.batch_size": 8 * (1 + (alpha > 0.5))},
            dev_macro_f1=score,
            train_flops=None if flops is None else flops[alpha],
        )
        for alpha, values in scores.items()
        for seed, score in enumerate(values)
    )


THREE = {0.2: [0.70, 0.72, 0.74], 0.4: [0.80, 0.81, 0.82], 0.6: [0.75, 0.76, 0.77]}
RACED = THREE | {0.8: [0.6, 0.5]}


def test_search_panels_and_scales(made: "type[Made]") -> None:
    runs = [
        made.run(
            phase="search",
            settings={"training.learning_rate": rate, "method.alpha": alpha, "model.dropout": drop},
        )
        for rate, alpha, drop in ((1e-5, 0.4, None), (1e-3, 0.5, 0.1))
    ]
    final = dataclasses.replace(runs[0], phase="final", configuration_id="final")
    figure = search_figures.search_scores(groups.configurations([*runs, final]))
    assert figure is not None
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert panels["training.learning_rate"].get_xscale() == "log"
    assert panels["method.alpha"].get_xscale() == "linear"
    ticks = [label.get_text() for label in panels["model.dropout"].get_xticklabels()]
    assert ticks == ["0.1", "None"]
    assert len(points(panels["method.alpha"])) == 3  # two configurations and one ring


def test_nothing_searched_is_no_figure(made: "type[Made]") -> None:
    assert search_figures.search_scores([]) is None
    assert search_figures.search_scores(groups.configurations([made.run(phase="search")])) is None
    unscored = made.run(phase="search", dev_macro_f1=None)
    assert search_figures.search_scores(groups.configurations([unscored])) is None


def test_panels_show_means_and_their_intervals(made: "type[Made]") -> None:
    figure = search_figures.search_scores(searched(made, RACED))
    assert figure is not None
    axes: Any = figure.axes[0]
    assert axes.get_xlabel() == "method.alpha"
    assert dict(points(axes)) == pytest.approx({0.2: 0.72, 0.4: 0.81, 0.6: 0.76, 0.8: 0.55})
    # t(0.975; 2) = 4.303, over the root of 3; the one with two seeds has no bar.
    bars = {line.get_xdata()[0]: line.get_ydata() for line in axes.lines[:3]}
    assert bars[0.2] == pytest.approx([0.72 - 0.04969, 0.72 + 0.04969], abs=1e-4)
    assert set(bars) == {0.2, 0.4, 0.6}
    pale = {c.get_offsets().tolist()[0][0] for c in axes.collections if c.get_alpha() < 0.5}
    assert pale == {0.8}


def test_lines_join_what_differs_in_one_field_alone(made: "type[Made]") -> None:
    figure = search_figures.search_scores(searched(made, RACED))
    assert figure is not None
    axes: Any = figure.axes[0]
    (line,) = axes.lines[3:]  # batch size 8; of batch size 16 one was dropped
    assert line.get_xydata().tolist() == [pytest.approx([0.2, 0.72]), pytest.approx([0.4, 0.81])]


def test_parallel_lines_pass_through_their_values(made: "type[Made]") -> None:
    figure = search_figures.parallel_coordinates(searched(made, RACED))
    assert figure is not None
    axes: Any = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    heights = {tuple(np.round(line.get_ydata(), 6).tolist()): line for line in lines}
    lowest, highest = 0.55, 0.81
    expected = {
        (round((alpha - 0.2) / 0.6, 6), float(alpha > 0.5), round((f1 - lowest) / 0.26, 6))
        for alpha, f1 in {0.2: 0.72, 0.4: highest, 0.6: 0.76, 0.8: lowest}.items()
    }
    assert set(heights) == expected
    assert {at[2] for at, line in heights.items() if (line.get_alpha() or 1) < 0.5} == {0.0}
    best = heights[max(heights, key=lambda at: at[2])].get_color()
    assert best == matplotlib.colormaps[drawing.SCORES](1.0)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["alpha", "batch_size", "dev macro-F1"]


def test_parallel_lines_break_where_a_field_is_missing(made: "type[Made]") -> None:
    found = searched(made, THREE)
    found[1] = dataclasses.replace(found[1], settings={"method.alpha": 0.3})
    figure = search_figures.parallel_coordinates(found)
    assert figure is not None
    axes: Any = figure.axes[0]
    gaps = [
        np.isnan(line.get_ydata()).tolist() for line in axes.lines if len(line.get_xdata()) == 3
    ]
    assert sorted(gaps) == [[False, False, False], [False, False, False], [False, True, False]]


def test_parallel_lines_need_two_of_each(made: "type[Made]") -> None:
    assert search_figures.parallel_coordinates([]) is None
    assert search_figures.parallel_coordinates(searched(made, {0.2: [0.7]})) is None
    one_field = [made.run(phase="search", settings={"method.alpha": alpha}) for alpha in (0.1, 0.2)]
    assert search_figures.parallel_coordinates(groups.configurations(one_field)) is None


def test_bars_are_shares_and_marks_what_chance_gives() -> None:
    found = [Importance("method.alpha", 0.7, 0.4), Importance("training.steps", 0.3, 0.5)]
    figure: Any = search_figures.importances(found)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.3]
    assert [line.get_xdata()[0] for line in axes.lines] == [0.4, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["alpha", "steps"]


def test_the_front_is_filled_ranked_and_joined(made: "type[Made]") -> None:
    """0.4 has the best mean, 0.6 costs least; 0.2 is worse than 0.4 in all three."""
    flops = {0.2: 3 * 10**12, 0.4: 2 * 10**12, 0.6: 10**12, 0.8: 1}
    figure = search_figures.trade_offs(searched(made, RACED, flops))
    assert figure is not None
    panels: Any = figure.axes
    for axes, column in zip(panels, ({3.0, 2.0, 1.0}, {2.0, 1.0}), strict=True):
        marks = [c for c in axes.collections if len(c.get_offsets())]
        assert {round(c.get_offsets()[0][0], 6) for c in marks} == column
        filled = {round(c.get_offsets()[0][1], 6) for c in marks if len(c.get_facecolors())}
        assert filled == {0.81, 0.76}
        assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert panels[0].lines[0].get_xydata() == pytest.approx(np.array([[1, 0.76], [2, 0.81]]))
    assert "10¹² FLOP" in figure.axes[0].get_xlabel()


def test_a_front_needs_two_that_ran_all_seeds_and_learned(made: "type[Made]") -> None:
    flops = dict.fromkeys(RACED, 10**12)
    assert search_figures.trade_offs(searched(made, RACED, None)) is None
    assert search_figures.trade_offs(searched(made, {0.2: THREE[0.2], 0.8: [0.6]}, flops)) is None
    never = {0.2: THREE[0.2], 0.4: [0.33, 0.33, 0.33]}
    assert search_figures.trade_offs(searched(made, never, flops)) is None


def test_the_race_shows_which_seeds_ran(made: "type[Made]") -> None:
    figure = search_figures.race(searched(made, RACED))
    assert figure is not None
    axes: Any = figure.axes[0]
    cells = np.ma.filled(axes.images[0].get_array(), np.nan)
    expected = [RACED[0.4], RACED[0.6], RACED[0.2], [*RACED[0.8], np.nan]]
    np.testing.assert_array_equal(cells, expected)
    assert "11 of 12 seed-runs (92%)" in figure.get_suptitle()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_yticklabels()[0].get_text() == "1, 0.4, 8"
    assert search_figures.race(searched(made, THREE)) is None
    assert search_figures.race([]) is None


def test_failed_runs_of_a_race_are_marked(made: "type[Made]") -> None:
    runs = [run for one in searched(made, RACED) for run in one.runs]
    runs[0] = dataclasses.replace(runs[0], status="diverged", dev_macro_f1=None)
    figure = search_figures.race(groups.configurations(runs))
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["x"]
    assert "x: failed" in figure.get_suptitle()


@pytest.mark.filterwarnings("error")
def test_odd_names_and_values_are_drawn(made: "type[Made]", tmp_path: Path) -> None:
    odd = "_$x$ <b> " + "long " * 40
    runs = [
        made.run(
            odd,
            seed,
            phase="search",
            settings={"method.$a$": number, f"method.{odd}": f"{odd}{number}", "method.n": None},
            dev_macro_f1=0.5 + 0.01 * number * seed,
        )
        for number in range(30)
        for seed in range(10 if number % 3 else 2)
    ]
    found = groups.configurations(runs)
    for draw in (
        search_figures.search_scores,
        search_figures.parallel_coordinates,
        search_figures.trade_offs,
        search_figures.race,
    ):
        figure = draw(found)
        assert figure is not None
        drawing.save(figure, tmp_path / "figure.png")
    drawing.save(search_figures.importances([Importance(odd, 1.0, 0.2)]), tmp_path / "figure.png")


@pytest.mark.filterwarnings("error")
def test_equal_scores_and_values_are_drawn(made: "type[Made]", tmp_path: Path) -> None:
    found = searched(made, {0.2: [0.5, 0.5], 0.4: [0.5, 0.5], 0.8: [0.5]}, dict.fromkeys(RACED, 7))
    for draw in (
        search_figures.search_scores,
        search_figures.parallel_coordinates,
        search_figures.trade_offs,
        search_figures.race,
    ):
        figure = draw(found)
        assert figure is not None
        drawing.save(figure, tmp_path / "figure.png")
