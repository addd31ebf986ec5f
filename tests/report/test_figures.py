"""Figures hold the data they are given and survive odd data."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest

from adapt_ray.records import CURVES_SCHEMA
from adapt_ray.report import drawing, figures, groups
from adapt_ray.report.selections import ModuleRow, SelectionMap
from adapt_ray.report.tokens import TokenFacts, TokenReport

if TYPE_CHECKING:
    from tests.report.conftest import Made


def selection_of(layers: int = 3) -> SelectionMap:
    rows = tuple(
        ModuleRow(
            layer=layer,
            kind=kind,
            dispersion=1.0 + layer,
            gradient=10.0**layer,
            score=layer / 3,
            selected=layer == 2,
            reached=layer >= 2,
            parameters=1000,
        )
        for layer in range(layers)
        for kind in ("query", "ffn_up")
    )
    return SelectionMap("adapt", "sensitivity S", rows, 0.2, flop_share=0.5, cached_flop_share=0.3)


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
    figure: Any = figures.learning_curves({"adapt": tables})
    panels = {axes.get_ylabel().partition(" (")[0]: axes for axes in figure.axes}
    points = panels["dev macro-F1"].lines[0].get_xydata().tolist()
    assert points == [[1, pytest.approx(0.3)], [2, 0.4]]
    assert panels["training loss"].lines[0].get_xydata().tolist() == [[1, 2.0], [2, 0.5]]
    assert all("(" in axes.get_ylabel() for axes in figure.axes), "a panel has no unit"


def test_a_selection_map_places_modules_and_frames_the_selected() -> None:
    found = selection_of()
    rows = tuple(row for row in found.modules if (row.layer, row.kind) != (1, "ffn_up"))
    figure = figures.selection_map(dataclasses.replace(found, modules=rows))
    panels: list[Any] = [axes for axes in figure.axes if axes.images]
    grids = [axes.images[0].get_array().filled(-1).tolist() for axes in panels]
    assert grids[0] == [[1, 1], [2, -1], [3, 3]]
    assert grids[1] == [[1, 1], [10, -1], [100, 100]]
    assert grids[3] == [[0, 0], [0, -1], [2, 2]]  # 0: no gradient, 2: trains
    for axes in panels[:3]:
        corners = [
            (p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in axes.patches
        ]
        assert [(round(x), round(y)) for x, y in corners] == [(0, 2), (1, 2)]
    assert "2 framed of 5 modules, 0.002 M parameters (20.0%" in figure.get_suptitle()
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["query", "ffn up"]


def test_only_what_spans_decades_is_drawn_on_a_logarithmic_scale() -> None:
    panels: list[Any] = [axes for axes in figures.selection_map(selection_of()).axes if axes.images]
    scales = [type(axes.images[0].norm).__name__ for axes in panels[:3]]
    assert scales == ["Normalize", "LogNorm", "Normalize"]


def test_scores_that_are_all_equal_or_negative_are_drawn(tmp_path: Path) -> None:
    found = selection_of()
    rows = tuple(dataclasses.replace(row, dispersion=0.0, score=-1.0) for row in found.modules)
    figure = figures.selection_map(dataclasses.replace(found, modules=rows))
    drawing.save(figure, tmp_path / "map.png")


def test_all_figures_use_one_style_per_label() -> None:
    labels = [f"label {i:02}" for i in range(49)]
    styles = drawing.styles_of(labels)
    assert styles == drawing.styles_of(labels[::-1] * 2)
    assert len(set(styles.values())) == 49


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["_hidden", "$x$ and $\\frac{$", "a" * 200, "<b>|"])
def test_odd_names_are_drawn_as_they_are(made: "type[Made]", tmp_path: Path, name: str) -> None:
    arms = groups.final_arms(made.final_runs({name: 0.8, "full": 0.8}, seeds=2))
    drawing.save(figures.final_scores(arms), tmp_path / "scores.png")
    figure = figures.cost_against_score(arms)
    drawing.save(figure, tmp_path / "cost.png")
    assert len(figure.legends[0].get_texts()) == 2


def test_save_replaces_whole_files_and_leaves_nothing_else(
    made: "type[Made]", tmp_path: Path
) -> None:
    path = tmp_path / "scores.png"
    path.write_bytes(b"old")
    drawing.save(figures.final_scores(groups.final_arms([made.run()])), path)
    image = matplotlib.image.imread(path)
    assert image.shape[1] == 7 * drawing.DPI
    assert np.ptp(image[..., :3]) > 0.5
    assert list(tmp_path.iterdir()) == [path]


def test_drawings_are_the_same_each_time_and_tell_no_time(made: "type[Made]") -> None:
    arms = groups.final_arms(made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=2))
    one, other = (drawing.svg(figures.final_scores(arms)) for _ in range(2))
    assert one == other
    assert b"<dc:date>" not in one
    assert b"<text" not in one  # glyphs are shapes: no font is needed


def test_tokens_are_placed_by_support_and_perplexity_and_filled_by_what_they_say() -> None:
    def token(text: str, support: int, present: tuple[float, float]) -> TokenFacts:
        return TokenFacts(text, "names", support, support / 100, support, 0.0, present)

    facts = (token("a b", 40, (40.0, 0.0)), token("c d", 10, (5.0, 5.0)))
    report = TokenReport("reviews", ("good", "bad"), (500.0, 500.0), 0.04, 50, facts)
    figure: Any = figures.token_map(report)
    (axes,) = figure.axes
    drawn = {
        tuple(c.get_offsets().tolist()[0]): c for c in axes.collections if len(c.get_offsets())
    }
    assert set(drawn) == {(40.0, 0.4), (10.0, 0.1)}
    filled = {at: len(c.get_facecolors()) for at, c in drawn.items()}
    assert filled == {(40.0, 0.4): 1, (10.0, 0.1): 0}
