"""Figures hold the data they are given and survive odd data."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest

from adapt_ray.records import CURVES_SCHEMA
from adapt_ray.report import figures, groups
from adapt_ray.report.figures import ModuleRow

if TYPE_CHECKING:
    from tests.report.conftest import Made


def modules(layers: int = 3) -> list[ModuleRow]:
    return [
        ModuleRow(layer, kind, 1.0 + layer, 10.0**layer, layer / 3, layer == 2, 1000)
        for layer in range(layers)
        for kind in ("query", "up")
    ]


def points(axes: Any) -> list[tuple[float, float]]:
    return [tuple(point) for c in axes.collections for point in c.get_offsets().tolist()]


def test_every_seed_is_a_point(made: "type[Made]") -> None:
    arms = groups.final_arms(made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=5))
    figure = figures.final_scores(arms)
    (axes,) = figure.axes
    assert sorted(x for x, _ in points(axes)) == pytest.approx(
        sorted(value for arm in arms for value in arm.values)
    )
    assert [label.get_text() for label in axes.get_yticklabels()] == ["adapt", "full"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best arm, row 0, on top


def test_costs_are_placed_in_their_units(made: "type[Made]") -> None:
    run = made.run(flops_per_epoch=2 * 10**12, epochs=3, train_seconds=40)
    panels: Any = figures.cost_against_score(groups.final_arms([run])).axes
    left, right = panels
    assert [line.get_xdata()[0] for line in (left.lines[0], right.lines[0])] == [6.0, 40.0]
    assert left.get_xlim()[0] == right.get_xlim()[0] == 0


def test_learning_curves_are_means_within_their_band(made: "type[Made]") -> None:
    tables = [
        CURVES_SCHEMA.empty_table().from_pylist(
            [{"epoch": e, "train_loss": loss, "dev_macro_f1": f1} for e, loss, f1 in rows],
            schema=CURVES_SCHEMA,
        )
        for rows in ([(1, 1.0, 0.2), (2, 0.5, 0.4)], [(1, 3.0, 0.4), (2, float("inf"), None)])
    ]
    panels: Any = figures.learning_curves({"adapt": tables}).axes
    left, right = panels
    assert left.lines[0].get_xydata().tolist() == [[1, pytest.approx(0.3)], [2, 0.4]]
    assert right.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 0.5]]


def test_search_panels_and_scales(made: "type[Made]") -> None:
    runs = [
        made.run(
            phase="search",
            settings={"training.learning_rate": rate, "method.alpha": alpha, "model.dropout": drop},
        )
        for rate, alpha, drop in ((1e-5, 0.4, None), (1e-3, 0.5, 0.1))
    ]
    final = dataclasses.replace(runs[0], phase="final", configuration_id="final")
    figure = figures.search_scores(groups.configurations([*runs, final]))
    assert figure is not None
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert panels["training.learning_rate"].get_xscale() == "log"
    assert panels["method.alpha"].get_xscale() == "linear"
    ticks = [label.get_text() for label in panels["model.dropout"].get_xticklabels()]
    assert ticks == ["0.1", "None"]
    assert len(points(panels["method.alpha"])) == 3  # two configurations and one ring


def test_nothing_searched_is_no_figure(made: "type[Made]") -> None:
    assert figures.search_scores([]) is None
    assert figures.search_scores(groups.configurations([made.run(phase="search")])) is None
    unscored = made.run(phase="search", dev_macro_f1=None)
    assert figures.search_scores(groups.configurations([unscored])) is None


def test_sensitivity_map_places_modules_and_frames_the_selected() -> None:
    rows = [row for row in modules() if (row.layer, row.kind) != (1, "up")]
    figure = figures.sensitivity_map(rows)
    panels: list[Any] = [axes for axes in figure.axes if axes.images]
    grid = panels[0].images[0].get_array()
    assert grid.filled(-1).tolist() == [[1, 1], [2, -1], [3, 3]]
    frames = [(round(p.get_x() + 0.4), round(p.get_y() + 0.4)) for p in panels[2].patches]
    assert frames == [(0, 2), (1, 2)]


def test_sensitivities_that_are_all_equal_or_negative_are_drawn(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, dispersion=0.0, sensitivity=-1.0) for row in modules()]
    figures.save(figures.sensitivity_map(rows), tmp_path / "map.png")


def test_all_figures_use_one_style_per_label() -> None:
    labels = [f"label {i:02}" for i in range(49)]
    styles = figures._styles(labels)
    assert styles == figures._styles(labels[::-1] * 2)
    assert len(set(styles.values())) == 49


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["_hidden", "$x$ and $\\frac{$", "a" * 200, "<b>|"])
def test_odd_names_are_drawn_as_they_are(made: "type[Made]", tmp_path: Path, name: str) -> None:
    arms = groups.final_arms(made.final_runs({name: 0.8, "full": 0.8}, seeds=2))
    figures.save(figures.final_scores(arms), tmp_path / "scores.png")
    figure = figures.cost_against_score(arms)
    figures.save(figure, tmp_path / "cost.png")
    assert len(figure.legends[0].get_texts()) == 2


def test_save_replaces_whole_files_and_leaves_nothing_else(
    made: "type[Made]", tmp_path: Path
) -> None:
    path = tmp_path / "scores.png"
    path.write_bytes(b"old")
    figures.save(figures.final_scores(groups.final_arms([made.run()])), path)
    image = matplotlib.image.imread(path)
    assert image.shape[1] == 7 * figures.DPI
    assert np.ptp(image[..., :3]) > 0.5
    assert list(tmp_path.iterdir()) == [path]
