"""The written report in every state that records can be in."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adapt_ray.data.leaks import Leak, Leaks
from adapt_ray.records import RunRecord
from adapt_ray.report.beside import FILE as PUBLISHED
from adapt_ray.report.beside import Remedy, beside
from adapt_ray.report.document import (
    PAGE,
    Context,
    PlantedRow,
    TokenRow,
    write_report,
)
from adapt_ray.report.groups import configurations
from adapt_ray.report.selections import ModuleRow, OverlapRow, SelectionMap
from adapt_ray.report.tokens import TokenFacts, TokenReport, as_html, as_markdown
from adapt_ray.report.wording import escape

if TYPE_CHECKING:
    from tests.report.conftest import Made


def report(
    folder: Path,
    made: "type[Made]",
    runs: list[RunRecord],
    curves: dict[str, pa.Table] | None = None,
    **context: Any,
) -> str:
    """Write a report and return its text, after checking that its figures are there."""
    path = write_report(folder, made.table_of(runs), curves or {}, Context(**context))
    text = path.read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text))
    assert shown == {file.name for file in folder.iterdir()} - {path.name, PAGE}
    return text


def answer(text: str) -> str:
    return text.partition("## Answer")[2].partition("\n## ")[0]


def shifted(runs: list[RunRecord], contender: str, by: float) -> list[RunRecord]:
    """Return copies of runs under another name, every score moved and a little noise added."""
    return [
        dataclasses.replace(
            run,
            contender=contender,
            method=contender,
            configuration_id=contender,
            run_id=f"{contender}{run.seed}",
            test_macro_f1=(run.test_macro_f1 or 0) + by + 0.001 * (run.seed % 3),
        )
        for run in runs
    ]


def test_it_leads_with_who_won_by_how_much_how_surely_and_at_what_cost(
    made: "type[Made]", tmp_path: Path
) -> None:
    runs = made.final_runs({"full": 0.80})
    runs += [
        dataclasses.replace(run, train_flops=3 * 10**12, train_seconds=30.0)
        for run in shifted(runs, "adapt", 0.02)
    ]
    text = report(tmp_path, made, runs, made.curves_of(runs))
    assert text.index("## Answer") < text.index("## Final comparison")
    lead = answer(text)
    assert "**adapt** has the best mean macro-F1 on the test split, 0.8" in lead
    assert re.search(r"Against \*\*full\*\* the difference is \+0\.021 \(95% interval \+0", lead)
    assert "10 paired seeds; p < 0.001" in lead
    assert "more than the noise between seeds explains" in lead
    assert "Stability: variance ratio adapt / full" in lead
    assert "ten seeds cannot tell" in lead
    assert "0.25 times the operations and 0.50 times the seconds of **full**" in lead
    assert "10 seeds of a method cannot tell one variance from half of it" in lead
    assert "## Learning curves" in text


def test_a_difference_within_the_noise_is_not_called_a_win(
    made: "type[Made]", tmp_path: Path
) -> None:
    lead = answer(report(tmp_path, made, made.final_runs({"adapt": 0.8, "full": 0.8})))
    assert "these seeds do not show which of the two is better" in lead
    assert "more than the noise" not in lead


def test_full_finetuning_is_compared_even_when_it_is_not_the_runner_up(
    made: "type[Made]", tmp_path: Path
) -> None:
    lead = answer(report(tmp_path, made, made.final_runs({"a": 0.9, "b": 0.85, "full": 0.8})))
    assert "Against **b**" in lead
    assert "Against **full**" in lead
    assert "Holm's correction for 2 comparisons" in lead


def test_full_finetuning_may_win(made: "type[Made]", tmp_path: Path) -> None:
    lead = answer(report(tmp_path, made, made.final_runs({"full": 0.9, "adapt": 0.8})))
    assert "**full** has the best mean" in lead
    assert "the runner-up **adapt** takes 0.55 times the operations" in lead


def test_one_contender(made: "type[Made]", tmp_path: Path) -> None:
    text = report(tmp_path, made, made.final_runs({"adapt": 0.8}))
    assert "It is the only contender with test scores, so nothing is compared." in answer(text)
    assert "full finetuning did not run" in answer(text)
    assert "## Variance" not in text


def test_one_seed(made: "type[Made]", tmp_path: Path) -> None:
    runs = made.final_runs({"adapt": 0.9, "full": 0.8}, seeds=1)
    lead = answer(report(tmp_path, made, runs))
    assert "over 1 paired seed; that gives no interval" in lead
    assert "undefined: it needs at least two seeds of each" in lead
    assert "1 seed of a method cannot tell" in lead


def test_no_common_seed(made: "type[Made]", tmp_path: Path) -> None:
    runs = [made.run("adapt", 1, test_macro_f1=0.9), made.run("full", 2, world_size=2)]
    lead = answer(report(tmp_path, made, runs))
    assert "no seed is paired" in lead
    assert "different numbers of workers" in lead


def test_failed_runs_are_counted_and_listed(made: "type[Made]", tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("dev_macro_f1", "test_macro_f1", "test_accuracy", "train_seconds", "flops_per_epoch")
    )
    runs = made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=3)
    runs.append(made.run("adapt", 103, status="diverged", error="loss is nan | 3", **nothing))
    runs.append(made.run("full", 103, status="error", error="out of memory", **nothing))
    runs.append(made.run("full", 104, dev_macro_f1=0.33, test_macro_f1=0.33))
    text = report(tmp_path, made, runs)
    assert "Failed runs of the comparison: 3 of 9." in answer(text)
    assert "Means leave out 2 runs without a test score" in answer(text)
    assert "| adapt | final | 103 | diverged | loss is nan \\| 3 |" in text
    assert "| full | final | 104 | at the majority baseline | - |" in text


def test_only_failed_runs(made: "type[Made]", tmp_path: Path) -> None:
    runs = [made.run(status="error", error="no memory", test_macro_f1=None, dev_macro_f1=None)]
    text = report(tmp_path, made, runs)
    assert "none of the 1 runs outside the search has a test score (1 ended early)" in answer(text)
    assert "no memory" in text


def test_search_without_a_final_comparison(made: "type[Made]", tmp_path: Path) -> None:
    text = report(tmp_path, made, made.search_runs(4))
    lead = answer(text)
    assert "The records hold no final comparison." in lead
    assert re.search(r"search for \*\*adapt\*\* on the dev split: 0\.7\d+ ± .* with alpha", lead)
    assert "it chose the configurations" in lead
    assert "## Final comparison" not in text
    assert "## Search" in text


def test_the_winner_of_a_search_is_named_with_its_values(
    made: "type[Made]", tmp_path: Path
) -> None:
    search = made.search_runs(3)
    best = next(one for one in configurations(search) if one.contender == "adapt")
    runs = search + made.final_runs({"adapt": 0.9}, settings=dict(best.settings))
    lead = answer(report(tmp_path, made, runs))
    values = ", ".join(f"{n.partition('.')[2]} {v:.3g}" for n, v in best.settings.items())
    assert f"It is the one of 3 searched configurations with {escape(values)}." in lead


def test_no_records(made: "type[Made]", tmp_path: Path) -> None:
    assert "There are no records yet of runs that trained" in answer(
        report(tmp_path, made, [], task="demo")
    )


def test_several_tasks_have_their_own_answers_and_figures(
    made: "type[Made]", tmp_path: Path
) -> None:
    runs = [
        dataclasses.replace(run, task=task)
        for task in ("one", "two*")
        for run in made.final_runs({"adapt": 0.8, "full": 0.7}, seeds=2)
    ]
    text = report(tmp_path, made, runs)
    assert "### one\n" in answer(text)
    assert "## Final comparison: two\\*" in text
    assert (tmp_path / "scores-2.png").exists()


def test_what_the_job_knows_is_shown_and_escaped(made: "type[Made]", tmp_path: Path) -> None:
    text = report(
        tmp_path,
        made,
        made.final_runs({"<i>x</i>": 0.8}, seeds=2),
        title="A *title*",
        task="demo|task",
        command="python jobs/sweep.py ```x```",
        timings={"mine": "reused", "sweep": 65.0},
        tokens=[TokenRow("<script>a|b_c</script>\n# no heading", 7, 0.0123)],
        planted=[PlantedRow("blue moon", True, 30, True), PlantedRow("red moon", False)],
        selections=[selection_of("<b>deep</b>")],
        artifacts={"tokens": "abc"},
    )
    assert text.startswith("# A \\*title\\*\n\nTask: demo\\|task.")
    assert "| &lt;script&gt;a\\|b\\_c&lt;/script&gt; \\# no heading | 7 | 0.0123 |" in text
    assert "<" not in re.sub("p < 0.001", "", text)
    assert "Mining found 1 of the 2 phrases planted in the corpus; 1 became tokens." in text
    assert "| red moon | no | - |" in text
    assert "| mine | reused |" in text
    assert "| sweep | 65 s |" in text
    assert "| tokens | abc |" in text
    assert "````sh\npython jobs/sweep.py ```x```\n````" in text
    assert "| torch | 2.13.0 |" in text
    assert "| machine | a processor, 2 CPUs |" in text
    assert "![What &lt;b&gt;deep&lt;/b&gt; trains](selection.png)" in text


def selection_of(label: str) -> SelectionMap:
    rows = [
        ModuleRow(
            layer, "query", 1.0, 2.0, 0.5, selected=layer > 0, reached=layer > 0, parameters=9
        )
        for layer in range(3)
    ]
    return SelectionMap(
        label, "sensitivity S", tuple(rows), 0.2, flop_share=0.514, cached_flop_share=0.3
    )


def test_every_selection_has_its_figure_its_cost_and_what_it_shares(
    made: "type[Made]", tmp_path: Path
) -> None:
    text = report(
        tmp_path,
        made,
        made.final_runs({"deep": 0.8, "random": 0.7}, seeds=2),
        selections=[selection_of("deep"), selection_of("random")],
        overlaps=[OverlapRow("deep", "reviews: deep", 0.75, 0.512)],
    )
    assert "![What deep trains](selection-1.png)" in text
    assert "![What random trains](selection-2.png)" in text
    assert "| deep | sensitivity S | 2 of 3 | 1 to 2 | 20% | 51.4% | 30% |" in text
    assert "| deep | reviews: deep | 75% | 51.2% |" in text


def test_all_tokens_stand_in_a_report_of_their_own(made: "type[Made]", tmp_path: Path) -> None:
    facts = TokenFacts("great joy", "phrases of the field", 9, 0.1, 9, 0.0, (9.0, 0.0))
    tokens = TokenReport("reviews", ("good", "bad"), (50.0, 50.0), 0.04, 9, (facts,))
    context = Context(tokens=[TokenRow("great joy", 9, 0.1)], token_report=tokens)
    path = write_report(tmp_path, made.table_of([]), {}, context)
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)]*)\)", path.read_text(encoding="utf-8"))
    written = {name: (tmp_path / name).read_text(encoding="utf-8") for name in links}
    assert written == {"tokens.html": as_html(tokens), "tokens.md": as_markdown(tokens)}
    assert (tmp_path / "tokens.png").exists()


def test_texts_in_two_splits_are_counted(made: "type[Made]", tmp_path: Path) -> None:
    pairs = (Leak("train", "test", 5, 11, 6, 0), Leak("train", "dev", 4, 8, 5, 1))
    kept = report(tmp_path, made, [], leaks=Leaks(pairs))
    assert "## Texts in two splits" in kept
    assert "| train, test | 5 | 11 | 6 | 0 |\n| train, dev | 4 | 8 | 5 | 1 |" in kept
    assert "They were kept" in kept
    assert "They were dropped" in report(tmp_path, made, [], leaks=Leaks(pairs, dropped=True))
    assert "two splits" not in report(tmp_path, made, [], leaks=Leaks((), dropped=True))


def test_long_lists_are_cut_and_say_so(made: "type[Made]", tmp_path: Path) -> None:
    tokens = [TokenRow(f"token number {i}", 5, 0.1) for i in range(100)]
    text = report(tmp_path, made, [], tokens=tokens)
    assert "The first 30 of 100:" in text
    assert text.count("token number") == 30


def test_a_report_is_written_again_in_place(made: "type[Made]", tmp_path: Path) -> None:
    runs = made.final_runs({"adapt": 0.8})
    first = report(tmp_path / "new" / "folder", made, runs)
    assert report(tmp_path / "new" / "folder", made, runs) == first


def test_the_report_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, adapt_ray.report.document; "
        "sys.exit(', '.join(sys.modules.keys() & {'torch', 'ray', 'transformers'}) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_published_table_stands_beside_the_report(made: "type[Made]", tmp_path: Path) -> None:
    runs = made.final_runs({"full": 0.8}, seeds=2, task="rct")
    found = beside("macro_f1", runs, lambda cell: Remedy("python run.py"))
    write_report(tmp_path, made.table_of(runs), {}, Context(published=found))
    text = (tmp_path / "report.md").read_text()
    assert f"[Macro-F1 by method and model: published and ours]({PUBLISHED})" in text
    published = (tmp_path / PUBLISHED).read_text()
    assert "minilm (another model)" in published
    assert published.count("python run.py") == 150


def test_curves_of_a_search_are_drawn_where_they_are_given(
    made: "type[Made]", tmp_path: Path
) -> None:
    runs = made.search_runs(2)
    assert "search-curves" not in report(tmp_path / "without", made, runs)
    text = report(tmp_path / "with", made, runs, made.curves_of(runs))
    assert "![Learning curves of the search for adapt](search-curves-1.png)" in text
    assert "![Learning curves of the search for full](search-curves-2.png)" in text
