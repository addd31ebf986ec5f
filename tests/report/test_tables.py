"""Tables on records made by hand, and cells that hold whatever users write."""

import html
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt_ray.report import groups, tables, wording
from adapt_ray.report.tables import Table

if TYPE_CHECKING:
    from tests.report.conftest import Made


def row_of(table: Table, number: int = 0) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[number], strict=True))


def test_comparison_of_two_seeds_by_hand(made: "type[Made]") -> None:
    """Scores 0.80 and 0.82: sd 0.0141, t(0.975; 1) = 12.71, half width 0.127."""
    arms = groups.final_arms(
        [
            made.run(seed=100, test_macro_f1=0.80, test_accuracy=0.9),
            made.run(seed=101, test_macro_f1=0.82, test_accuracy=0.9),
            made.run(seed=102, test_macro_f1=None, test_accuracy=None, status="diverged"),
        ]
    )
    assert row_of(tables.comparison(arms)) == {
        "Contender": "adapt",
        "Seeds": "2",
        "Test macro-F1": "0.810 ± 0.014",
        "95% interval": "0.683 to 0.937",
        "Interquartile mean": "0.810",
        "Variance (points²)": "2",
        "Test accuracy": "0.900 ± 0.000",
        "Failed runs": "1 of 3 (6.15% to 79.2%)",
    }


def test_one_seed_gives_a_mean_and_no_spread(made: "type[Made]") -> None:
    row = row_of(tables.comparison(groups.final_arms([made.run()])))
    assert (row["Test macro-F1"], row["95% interval"], row["Variance (points²)"]) == (
        "0.800",
        "-",
        "-",
    )


def test_costs_relative_to_full(made: "type[Made]") -> None:
    arms = groups.final_arms(
        [
            made.run("full", 1, test_macro_f1=0.9, flops_per_epoch=4 * 10**12, train_seconds=80),
            made.run("adapt", 1, peak_memory_bytes=412_000_000, memory_kind="cuda"),
        ]
    )
    assert row_of(tables.costs(arms), 1) == {
        "Contender": "adapt",
        "Test macro-F1": "0.800",
        "Trained share": "20%",
        "Inserted tokens": "4%",
        "Training time a run": "40 s",
        "FLOPs an epoch": "2 TFLOP",
        "Peak memory": "412 MB (GPU)",
        "FLOPs a run / full": "0.50",
        "Time a run / full": "0.50",
    }


def test_costs_without_full_or_measurements(made: "type[Made]") -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("train_seconds", "flops_per_epoch", "peak_memory_bytes", "memory_kind", "trained_share")
    )
    row = row_of(tables.costs(groups.final_arms([made.run(**nothing)])))
    assert [value for value in row.values() if value == "-"] == ["-"] * 6


def test_differences_are_corrected_for_their_number(made: "type[Made]") -> None:
    arms = groups.final_arms(made.final_runs({"a": 0.83, "b": 0.82, "c": 0.81}))
    table = tables.differences(arms[0], arms[1:])
    assert [row[0] for row in table.rows] == ["a - b", "a - c"]
    smallest = min(groups.compare(arms[0], arm).t_p or 1 for arm in arms[1:])
    holm = {row_of(table, i)["p (t, Holm)"] for i in range(2)}
    assert wording.p_value(2 * smallest) in holm


def test_variances_leave_out_the_reference(made: "type[Made]") -> None:
    arms = groups.final_arms(made.final_runs({"full": 0.8, "adapt": 0.8, "one": 0.7}, seeds=10))
    reference = groups.reference_arm(arms)
    assert reference is not None
    table = tables.variances(arms, reference)
    assert {row[0] for row in table.rows} == {"adapt / full", "one / full"}


def test_undefined_variances_are_dashes(made: "type[Made]") -> None:
    arms = groups.final_arms([made.run("a"), made.run("b")])
    assert tables.variances(arms, arms[0]).rows == (
        ("b / a", "1 and 1", "undefined", *["-"] * 6, "68 (54 one-sided)"),
    )


def test_search_rows(made: "type[Made]") -> None:
    table = tables.search(
        [
            made.run("adapt", 0, phase="search", settings={"method.alpha": 0.25}),
            made.run("adapt", 0, phase="search", settings={"method.alpha": 0.75}, dev_macro_f1=0.1),
            made.run("full", 0, phase="search"),
            made.run("adapt", 100, settings={"method.alpha": 0.25}),
        ]
    )
    assert table.rows == (
        ("adapt", "1", "alpha 0.25", "1", "0.800", "0", "yes"),
        ("adapt", "2", "alpha 0.75", "1", "0.100", "1", ""),
        ("full", "1", "-", "1", "0.800", "0", ""),
    )


def test_stages() -> None:
    table = tables.stages({"corpus": 1.234, "mine": "reused", "train": 130, "sweep": 9000})
    assert [row[1] for row in table.rows] == ["1.2 s", "reused", "2 min", "2.5 h"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.size(3.21e9), "3.2 GB"),
        (wording.seconds(41.2), "41 s"),
        (wording.seconds(0.0312), "0.031 s"),
        (wording.operations(7.66e14), "766 TFLOP"),
        (wording.operations(2.5e15), "2.5 PFLOP"),
        (wording.operations(5e6), "5 MFLOP"),
        (wording.p_value(0.00001), "< 0.001"),
        (wording.p_value(0.0432), "0.043"),
        (wording.share(1.0), "100%"),
        (wording.interval(-0.01, 0.02, signs=True), "-0.010 to +0.020"),
        (wording.multiple(0.043), "0.043"),
        (wording.setting(True), "True"),
    ],
)
def test_numbers_for_readers(written: str, expected: str) -> None:
    assert written == expected


def test_markdown_layout() -> None:
    text = tables.markdown(Table(("a", "b"), (("x|y", "<b>"),)))
    assert text == "| a | b |\n| :-- | --: |\n| x\\|y | &lt;b&gt; |"


@given(st.text())
def test_any_cell_stays_one_cell_and_shows_its_text(text: str) -> None:
    line = tables.markdown(Table(("a",), ((text,),))).splitlines()
    assert len(line) == 3
    cell = line[2].removeprefix("| ").removesuffix(" |")
    without_escapes = re.sub(r"\\.", "", cell)
    assert not set(without_escapes) & set("|<>*_`[]$~#\\")
    shown = html.unescape(re.sub(r"\\([\\`*_\[\]|~$#])", r"\1", cell))
    assert shown.replace("\ufffd", "") == re.sub(
        r"[\x00-\x1f\x7f-\x9f\ufffd]", "", " ".join(text.split())
    )


def test_escape_is_not_fooled_by_backslashes_or_entities() -> None:
    assert wording.escape("\\| &amp; \x07") == "\\\\\\| &amp;amp; \ufffd"


def test_what_was_spent_is_summed_by_phase_and_contender(made: "type[Made]") -> None:
    runs = [
        made.run("a", 0, phase="search", train_seconds=30.0, train_flops=10**12),
        made.run("a", 1, phase="search", train_seconds=40.0, train_flops=2 * 10**12),
        made.run("a", 2, phase="search", status="error", train_seconds=None, train_flops=None),
        made.run("a", 100, train_seconds=None, train_flops=None),
    ]
    assert tables.spent(runs).rows == (
        ("final", "a", "1", "0", "-", "-"),
        ("search", "a", "3", "1", "70 s", "3 TFLOP"),
    )


def test_notebooks_show_a_table_as_it_is() -> None:
    shown = Table(("A", "<b>"), (("x & y", "<script>"),))._repr_html_()
    assert shown == (
        "<table><tr><th>A</th><th>&lt;b&gt;</th></tr>"
        "<tr><td>x &amp; y</td><td>&lt;script&gt;</td></tr></table>"
    )
