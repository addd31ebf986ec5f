"""The card of an exported model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from scipy import stats
from torch import Tensor

from adapt_ray.config import FullConfig
from adapt_ray.export import export
from adapt_ray.model_card import card_facts
from adapt_ray.modeling import TaskClassifier
from adapt_ray.records import RunRecord
from adapt_ray.report.card import CardFacts, model_card, sibling_runs, with_section
from adapt_ray.training.run import Inputs, RunPlan, execute

PlanFor = Callable[..., RunPlan]
EVIL = "<script>alert(1)</script> | [x](javascript:y) `z`"


@pytest.fixture(scope="module")
def made(plan_for: PlanFor, tmp_path_factory: pytest.TempPathFactory) -> tuple[CardFacts, Path]:
    """Return the facts of a real run with task tokens, and its exported folder."""
    plan = plan_for(FullConfig(task_tokens=True), epochs=1, test=True)
    inputs = Inputs.of(plan)
    folder = tmp_path_factory.mktemp("card") / "model"
    found: list[CardFacts] = []

    def write(model: TaskClassifier, weights: dict[str, Tensor], record: RunRecord) -> None:
        found.append(card_facts(plan, inputs, record, []))
        names = inputs.corpus.label_names
        card = model_card(found[0])
        export(folder, model, weights, inputs.tokenizer, plan.model, names, {}, card)

    execute(plan, 0, inputs, export=write)
    return found[0], folder


def rendered(facts: CardFacts) -> str:
    page: str = MarkdownIt("commonmark").enable("table").render(model_card(facts))
    return page


def test_the_card_lies_beside_the_model_and_says_what_the_record_says(
    made: tuple[CardFacts, Path],
) -> None:
    facts, folder = made
    card = (folder / "README.md").read_text()
    record = facts.record
    assert card == model_card(facts)
    assert f"| macro-F1 | {record.dev_macro_f1:.3f} | {record.test_macro_f1:.3f} |" in card
    assert "| train | 40 | 20 | 20 |" in card
    assert "| test | 16 | 8 | 8 |" in card
    assert "| run seed | 0 |" in card
    assert "tiny-bert" in card
    assert record.model not in card  # a path of this machine
    assert "3 task tokens: “great joy”, “no sense”, “we loved it”." in card
    assert "This is one seed" in card
    assert "resident memory of the process" in card
    assert json.loads(record.versions_json)["torch"] in card


def test_seeds_give_a_mean_with_its_interval(made: tuple[CardFacts, Path]) -> None:
    facts, _ = made
    scores = [0.7, 0.8, 0.75]
    runs = [
        replace(facts.record, seed=seed, run_id=str(seed), test_macro_f1=value)
        for seed, value in enumerate(scores)
    ]
    others = [
        replace(runs[1], status="diverged", seed=8),
        replace(runs[1], configuration_id="another", seed=9),
    ]
    siblings = sibling_runs(runs[0], [*runs, *others, runs[1]])
    assert [run.seed for run in siblings] == [1, 2]
    card = model_card(replace(facts, record=runs[0], siblings=siblings))
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert f"test macro-F1 over 3 seeds: 0.750, 95% t interval {low:.3f} to {high:.3f}." in card
    assert "(seeds 0, 1, 2)" in card
    assert "This is one seed" not in card


def test_what_users_and_corpora_say_is_shown_and_does_nothing(
    made: tuple[CardFacts, Path],
) -> None:
    facts, _ = made
    record = replace(facts.record, task=EVIL, model=EVIL, machine=EVIL)
    page = rendered(
        replace(facts, record=record, label_names=(EVIL, "b"), tokens=(EVIL,), leaks=EVIL)
    )
    assert "<script" not in page
    assert "href" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_a_run_without_test_scores_says_so(made: tuple[CardFacts, Path]) -> None:
    facts, _ = made
    record = replace(facts.record, test_macro_f1=None, test_accuracy=None, test_per_class_f1=None)
    card = model_card(replace(facts, record=record, tokens=()))
    assert "The test split was not scored" in card
    assert "No task tokens." in card


def test_a_section_is_added_once_and_then_replaced() -> None:
    card = "# A card\n\nText.\n"
    once = with_section(card, "onnx", "## ONNX\n\nfirst")
    assert once == "# A card\n\nText.\n\n<!-- onnx:begin -->\n## ONNX\n\nfirst\n<!-- onnx:end -->\n"
    more = once + "\nWritten by hand.\n"
    again = with_section(more, "onnx", "second")
    assert again == more.replace("## ONNX\n\nfirst", "second")
