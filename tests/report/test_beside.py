"""Ours beside published figures, against values worked out by hand."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from scipy import stats

from adapt_ray.config import TableName
from adapt_ray.records import RunRecord
from adapt_ray.report import beside, variance
from adapt_ray.report.beside import Beside, Remedy
from adapt_ray.report.published import Cell

LARGE = "google-bert/bert-large-uncased"


def remedy(cell: Cell) -> Remedy:
    if cell.share == 0.5:
        return Remedy("too large", possible=False)
    return Remedy(f"run {cell.table} {cell.task} {cell.model} {cell.method}")


def table(name: TableName, runs: list[RunRecord]) -> Beside:
    return beside.beside(name, runs, remedy)


def rows(found: Beside, *start: str) -> list[dict[str, str]]:
    """Return the rows that begin with these cells."""
    return [
        dict(zip(found.table.columns, row, strict=True))
        for row in found.table.rows
        if row[: len(start)] == start
    ]


@pytest.fixture
def runs(made: Any) -> Callable[..., list[RunRecord]]:
    def make(method: str, f1: list[float], **changes: Any) -> list[RunRecord]:
        settings: Mapping[str, Any] = changes.pop("settings", {})
        tokens = changes.pop("task_tokens", method == "adapt")
        values = {"task": "rct", "model": LARGE, "train_rows": 180_000, "test_rows": 30_000}
        return [
            made.run(
                method,
                seed,
                settings={"method.task_tokens": tokens, **settings},
                test_macro_f1=score,
                test_accuracy=score,
                **(values | changes),
            )
            for seed, score in enumerate(f1, 100)
        ]

    return make


def test_nothing_run_names_every_cell_and_what_would_run_it() -> None:
    found = table("macro_f1", [])
    assert found.cells == len(found.missing) == len(found.table.rows) == 150
    assert found.ours.rows == ()
    assert found.missing["rct, bert_large, full"].text == "run macro_f1 rct bert_large full"
    (row,) = rows(found, "rct", "bert_large", "full")
    assert (row["Published"], row["Ours"], row["Seeds"]) == ("0.805", "not run", "-")
    assert "0 of 150 published cells run" in beside.in_short(found)
    assert "# rct, bert_large, full\nrun macro_f1 rct bert_large full" in beside.as_markdown(found)


def test_ours_stands_in_the_cell_of_its_task_model_and_method(runs: Any) -> None:
    found = table("macro_f1", runs("full", [0.80, 0.82]))
    (row,) = rows(found, "rct", "bert_large", "full")
    # Mean 0.81, standard deviation 0.0141; t(0.975, 1) is 12.706, times 0.01.
    assert row["Ours"] == "0.810 ± 0.014"
    assert row["95% interval"] == "0.683 to 0.937"
    assert row["Ours - published"] == "+0.005"
    assert row["Training rows"] == "180,000"
    assert "rct, bert_large, full" not in found.missing
    assert len(found.missing) == 149


def test_one_seed_has_no_interval(runs: Any) -> None:
    (row,) = rows(table("macro_f1", runs("full", [0.8])), "rct", "bert_large", "full")
    assert (row["Seeds"], row["95% interval"], row["Ours"]) == ("1", "-", "0.800")


def test_another_model_is_a_row_of_its_own(runs: Any) -> None:
    found = table("macro_f1", runs("full", [0.5, 0.6], model="minilm"))
    assert len(found.missing) == 150
    (row,) = rows(found, "rct", "minilm (another model)")
    assert (row["Published"], row["Ours - published"]) == ("-", "-")
    assert len(found.ours.rows) == 1


def test_fewer_training_rows_give_no_difference(runs: Any) -> None:
    found = table("macro_f1", runs("full", [0.8, 0.9], train_rows=8_000))
    (row,) = rows(found, "rct", "bert_large", "full")
    assert (row["Training rows"], row["Ours - published"]) == ("8,000", "other data")


def test_task_tokens_belong_to_adapt_and_to_no_other_method(runs: Any) -> None:
    found = table("macro_f1", runs("full", [0.8], task_tokens=True))
    assert len(found.missing) == 150
    assert found.ours.rows == ()


def test_failed_runs_alone_are_no_result(runs: Any) -> None:
    lost = runs("full", [None, None], status="diverged", error="loss")
    (row,) = rows(table("macro_f1", lost), "rct", "bert_large", "full")
    assert (row["Ours"], row["Seeds"], row["Ours - published"]) == ("-", "0", "-")


def test_shares_of_the_encoder_are_not_the_papers(runs: Any) -> None:
    ours = [
        *runs("adapt", [0.8], settings={"method.sparsity": 0.1, "method.of": "model"}),
        *runs("adapt", [0.7], settings={"method.sparsity": 0.1, "method.of": "encoder"}),
    ]
    found = table("sparsity", ours)
    matched, alone = (
        [row for row in rows(found, "rct", "bert_large") if row["Ours"].startswith(value)]
        for value in ("0.8", "0.7")
    )
    assert [row["Share"] for row in matched] == ["10%"]
    assert matched[0]["Published"] == "0.824"
    assert [(row["Share"], row["Published"]) for row in alone] == [("10% of the encoder", "-")]


def test_what_cannot_be_run_gives_its_reason() -> None:
    found = table("large_shares", [])
    (row,) = [row for row in rows(found, "rct", "bert_small") if row["Share"] == "50%"]
    assert row["Ours"] == "cannot be run"
    text = beside.as_markdown(found)
    assert "- rct, bert\\_small, adapt, 50%: too large" in text.partition("cannot be run\n")[2]


def test_stability_has_variances_their_intervals_and_ratios(runs: Any) -> None:
    full, other = [0.80, 0.82, 0.84], [0.81, 0.82, 0.83]
    found = table("stability", [*runs("full", full), *runs("lora", other)])
    (row,) = rows(found, "rct", "bert_large", "full")
    # Squares about the mean: 2 x 0.02²; over 2 degrees of freedom 4e-4, which are 4 points².
    assert row["Our variance (points²)"] == "4"
    low, high = 8 / stats.chi2.ppf(0.975, 2), 8 / stats.chi2.ppf(0.025, 2)
    assert row["95% interval"] == f"{low:.3g} to {high:.0f}"
    assert (row["Published variance"], row["Published / full"]) == ("0.218", "1.00")
    (row,) = rows(found, "rct", "bert_large", "lora")
    assert row["Ours / full"] == "0.25"
    ratio = variance.variance_ratio(other, full)
    assert ratio.low is not None
    assert row["95% interval (F)"].startswith(f"{ratio.low:.2g}")
    assert rows(found, "rct", "not stated", "adapt")[0]["Published / full"] == "0.77"
    assert any("scale" in note and "not stated" in note for note in found.notes)


def test_costs_are_of_5000_rows_and_relative_to_full(runs: Any) -> None:
    # 10,000 rows an epoch: 3 epochs in 60 s at 500 rows a second.
    whole = {"samples_per_second": 500.0, "train_seconds": 60.0}
    ours = [
        *runs("full", [0.8], flops_per_epoch=4 * 10**15, step_memory_bytes=20 * 10**9, **whole),
        *runs("adapt", [0.8], flops_per_epoch=3 * 10**15, step_memory_bytes=15 * 10**9, **whole),
    ]
    found = table("costs", ours)
    (row,) = found.table.rows[1:2]
    columns = dict(zip(range(len(row)), row, strict=True))
    assert row[:4] == ("bert_large", "adapt", "1104", "0.44")
    assert (columns[4], columns[5]) == ("1,500", "0.75")
    assert row[6:10] == ("14.2", "0.65", "15", "0.75")
    assert found.table.rows[2][4] == "not run"
    assert len(found.missing) == 3


def test_the_ablation_pairs_seeds_and_gives_relative_gains(runs: Any) -> None:
    ours = [
        *runs("full", [0.5, 0.6, 0.7]),
        *runs("full", [0.6, 0.6, 0.75], task_tokens=True),
        *runs("bitfit", [0.5]),
    ]
    found = table("ablation", ours)
    assert found.cells == 0
    assert any("bar chart" in note for note in found.notes)
    (row,) = rows(found, "rct")
    assert (row["Method"], row["Seeds"], row["Gain in F1"]) == ("full", "3", "+0.050")
    assert row["Relative gain"] == "+8.3%"  # 0.05 of 0.6


def test_imdb_is_told_apart_by_its_share_of_the_data(runs: Any) -> None:
    tiny = {"model": "google/bert_uncased_L-2_H-128_A-2", "task": "imdb"}
    large, small = {"train_rows": 40_500, "test_rows": 5_000}, {"train_rows": 13_500,
                                                               "test_rows": 35_000}  # fmt: skip
    ours = [
        *runs("full", [0.8], corpus_digest="a", **tiny, **large),
        *runs("full", [0.7], corpus_digest="b", **tiny, **small),
    ]
    found = table("imdb_small_models", ours)
    first, second = rows(found, "imdb", "tinybert", "full")
    assert (first["Data"], first["Published"], first["Ours"]) == ("90%", "0.840", "0.800")
    assert (second["Data"], second["Published"], second["Ours"]) == ("30%", "0.800", "0.700")
    assert first["Ours - published"] == "-0.040"
    assert (first["Published s an epoch"], first["Our s an epoch"]) == ("5", "13.3")  # 40 s in 3
    assert "Our s an epoch" not in table("macro_f1", []).table.columns


def test_prompts_are_shown_at_the_temperature_that_is_best_on_dev(made: Any) -> None:
    ours = [
        made.run(
            f"prompt-0-t{temperature:g}",
            0,
            method="zero_shot",
            phase="prompt",
            task="rct",
            model="google/gemma-2-2b-it",
            config_json='{"prompt": {"shots": 0}}',
            dev_macro_f1=dev,
            test_macro_f1=test,
        )
        for temperature, dev, test in ((0.0, 0.5, 0.4), (1.0, 0.4, 0.6))
    ]
    (row, _) = rows(table("prompting", ours), "rct", "gemma_2_2b_it")
    assert (row["Examples"], row["Published"], row["Ours"]) == ("0", "0.384", "0.400")
    assert table("macro_f1", ours).ours.rows == ()


def test_user_text_cannot_break_the_document(runs: Any) -> None:
    found = table("macro_f1", runs("full", [0.8], model="a|b<script>"))
    text = beside.as_markdown(found)
    assert "<script>" not in text
    assert "a\\|b" in text
