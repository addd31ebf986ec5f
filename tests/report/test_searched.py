"""The report's section on the search, against figures computed here."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from adapt_ray.records import RunRecord
from adapt_ray.report import groups
from adapt_ray.report.groups import Study
from adapt_ray.report.searched import search
from adapt_ray.report.writer import Writer

if TYPE_CHECKING:
    from tests.report.conftest import Made


def section(folder: Path, runs: list[RunRecord]) -> tuple[str, set[str]]:
    """Return the section's text and the figures that it shows, after checking that they exist."""
    drawings: dict[str, bytes] = {}
    text = "\n\n".join(search(Writer(folder, drawings), Study("demo", tuple(runs)), {}))
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text))
    assert shown == {file.name for file in folder.iterdir()} == set(drawings)
    return text, {name.removesuffix(".png") for name in shown}


def rows_of(text: str, first: str) -> list[dict[str, str]]:
    """Return the rows of the table that has this column."""
    table = next(block for block in text.split("\n\n") if block.startswith("|") and first in block)
    head, _, *rows = ([c.strip() for c in line[1:-1].split("|")] for line in table.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_raced_search_is_told_in_full(made: "type[Made]", tmp_path: Path) -> None:
    text, shown = section(tmp_path, made.search_runs(12))
    assert shown == {
        "search",
        "search-lines-1",  # full has one searched field: its panel says it all
        "importance-1",
        "importance-2",
        "race-1",
        "race-2",
        "trade-offs",
    }
    assert "judged by 12 configurations" in text


def test_the_front_in_the_table_is_in_closed_form(made: "type[Made]", tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    scores = {alpha: 0.7 + 0.1 * rng.random(10) for alpha in (0.1, 0.2, 0.3)}
    flops = {0.1: 10**12, 0.2: 2 * 10**12, 0.3: 3 * 10**12}
    runs = [
        made.run(
            phase="search",
            seed=seed,
            settings={"method.alpha": alpha},
            dev_macro_f1=float(score),
            train_flops=flops[alpha],
        )
        for alpha, values in scores.items()
        for seed, score in enumerate(values)
    ]
    text, _ = section(tmp_path, runs)
    outcomes = {
        alpha: (values.mean(), values.std(ddof=1), flops[alpha]) for alpha, values in scores.items()
    }
    front = [
        alpha
        for alpha, (mean, sd, cost) in outcomes.items()
        if not any(m >= mean and s <= sd and c < cost for m, s, c in outcomes.values())
        and not any(m > mean and s <= sd and c <= cost for m, s, c in outcomes.values())
    ]
    rows = rows_of(text, "Standard deviation")
    assert {row["Searched values"] for row in rows} == {f"alpha {alpha}" for alpha in front}
    for row in rows:
        alpha = float(row["Searched values"].removeprefix("alpha "))
        mean, sd, cost = outcomes[alpha]
        assert row["Dev macro-F1"] == f"{mean:.3f}"
        assert row["Standard deviation (points)"] == f"{100 * sd:.2g}"
        low, high = 100 * sd * np.sqrt(9 / stats.chi2.ppf([0.975, 0.025], 9))
        assert row["Its 95% interval"] == f"{low:.2g} to {high:.2g}"
        assert row["FLOPs a run"] == f"{cost / 1e12:.3g} TFLOP"


def test_few_configurations_say_that_they_are_few(made: "type[Made]", tmp_path: Path) -> None:
    text, shown = section(tmp_path, made.search_runs(4))
    assert not [name for name in shown if name.startswith("importance")]
    assert "is not estimated from 4 configurations; that takes 10" in text


def test_what_decides_nothing_is_said_to_decide_nothing(made: "type[Made]", tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    runs = [
        made.run(
            phase="search",
            settings={"method.alpha": float(alpha)},
            dev_macro_f1=float(rng.random()),
        )
        for alpha in np.linspace(0.1, 1, 12)
    ]
    text, _ = section(tmp_path, runs)
    assert "none more than shuffled scores do" in text


def test_one_configuration(made: "type[Made]", tmp_path: Path) -> None:
    text, shown = section(tmp_path, [made.run(phase="search", seed=seed) for seed in range(3)])
    assert shown == set()
    assert "is not estimated" not in text
    assert len(rows_of(text, "Rank")) == 1


def test_no_search_is_no_section(made: "type[Made]", tmp_path: Path) -> None:
    assert section(tmp_path, made.final_runs({"adapt": 0.8}, seeds=2)) == ("", set())


def test_dropped_are_those_with_fewer_seeds_than_others_of_their_contender(
    made: "type[Made]",
) -> None:
    runs = made.search_runs(4)
    runs += [dataclasses.replace(run, contender="alone") for run in runs if run.contender == "full"]
    alone = [r for r in runs if r.contender == "alone" and r.seed < 3]
    found = groups.configurations([r for r in runs if r.contender != "alone"] + alone)
    dropped = {(one.contender, len(one.runs)): one.dropped for one in found}
    assert dropped == {
        ("adapt", 10): False,
        ("adapt", 3): True,
        ("full", 10): False,
        ("full", 3): True,
        ("alone", 3): False,
    }


def test_operations_of_a_configuration_hold_its_part_of_what_runs_share(
    made: "type[Made]",
) -> None:
    runs = [
        made.run(phase="search", seed=seed, train_flops=100, trunk_fill_flops=40)
        for seed in range(4)
    ]
    (found,) = groups.configurations(runs)
    assert found.flops == pytest.approx(100 + 40 / 4)
