"""Which runs are compared, paired, ranked and counted as failed."""

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from adapt_ray.config import LEAD_TO_SELECTION, AdaptConfig, FullConfig
from adapt_ray.records import RunRecord
from adapt_ray.report import groups

if TYPE_CHECKING:
    from tests.report.conftest import Made


def test_arms_are_sorted_and_leave_out_the_search(made: "type[Made]") -> None:
    runs = made.final_runs({"full": 0.7, "adapt": 0.8}) + made.search_runs(2)
    arms = groups.final_arms(runs)
    assert [arm.label for arm in arms] == ["adapt", "full"]
    assert [run.seed for run in arms[0].runs] == list(range(100, 110))


def test_runs_of_different_configurations_are_never_averaged(made: "type[Made]") -> None:
    runs = [made.run(configuration_id="aaaaaaaa"), made.run(configuration_id="bbbbbbbb")]
    assert [arm.label for arm in groups.final_arms(runs)] == ["adapt aaaaaa", "adapt bbbbbb"]


def test_models_are_named_when_there_are_several(made: "type[Made]") -> None:
    runs = [
        made.run(model="small", test_macro_f1=0.9),
        made.run(model="large", configuration_id="x", test_macro_f1=0.8),
    ]
    labels = [arm.label for arm in groups.final_arms(runs)]
    assert labels == ["adapt (small)", "adapt (large)"]


def test_studies_split_by_task_and_corpus(made: "type[Made]") -> None:
    runs = [
        made.run(task="b"),
        made.run(task="a", corpus_digest="1111111111"),
        made.run(task="a", corpus_digest="2222222222"),
    ]
    labels = [study.label for study in groups.studies(runs)]
    assert labels == ["a (corpus 111111)", "a (corpus 222222)", "b"]


def test_only_seeds_that_both_finished_alike_are_paired(made: "type[Made]") -> None:
    def run(contender: str, seed: int, f1: float | None, workers: int = 1) -> RunRecord:
        return made.run(contender, seed, test_macro_f1=f1, world_size=workers)

    arms = groups.final_arms(
        [
            *(run("a", 100 + i, f1) for i, f1 in enumerate([0.9, 0.8, 0.7, None, 0.9])),
            *(run("b", 100 + i, f1) for i, f1 in enumerate([0.5, 0.6, None, 0.7])),
            run("b", 104, 0.1, workers=2),
        ]
    )
    assert groups.paired_scores(arms[0], arms[1]) == ([0.9, 0.8], [0.5, 0.6])
    assert groups.compare(arms[0], arms[1]).mean == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("status", "dev", "lost"),
    [
        ("ok", 0.5, False),
        ("ok", 0.33, True),
        ("ok", 0.2, True),
        ("diverged", None, True),
        ("error", None, True),
    ],
)
def test_failed_is_ended_early_or_no_better_than_the_majority(
    made: "type[Made]", status: str, dev: float | None, lost: bool
) -> None:
    assert groups.failed(made.run(status=status, dev_macro_f1=dev)) == lost


def test_cost_is_that_of_whole_runs_and_leaves_out_runs_cut_short(made: "type[Made]") -> None:
    arms = groups.final_arms(
        [
            made.run("full", 1, test_macro_f1=0.9, train_flops=500, train_seconds=40),
            made.run("adapt", 1, train_flops=200, train_seconds=30),
            made.run("adapt", 2, status="diverged", train_flops=20, train_seconds=1),
        ]
    )
    assert groups.reference_arm(arms) is arms[0]
    assert groups.relative_cost(arms[1], arms[0]) == (200 / 500, 30 / 40)


def test_runs_bear_equal_parts_of_the_trunk_that_they_share(made: "type[Made]") -> None:
    runs = [
        made.run("adapt", seed, train_flops=100, train_seconds=10.0,
                 trunk_fill_flops=40, trunk_fill_seconds=6.0)
        for seed in range(4)
    ]  # fmt: skip
    (arm,) = groups.final_arms(runs)
    assert (arm.flops, arm.train_seconds) == (110, 11.5)


def test_the_reference_is_full_finetuning_by_name_or_else_by_method(made: "type[Made]") -> None:
    other = made.run("tuned", method="full", test_macro_f1=0.9)
    assert groups.reference_arm(groups.final_arms([made.run()])) is None
    for runs, expected in (([other], "tuned"), ([other, made.run("full")], "full")):
        reference = groups.reference_arm(groups.final_arms(runs))
        assert reference is not None
        assert reference.label == expected


def test_search_ranks_raced_out_configurations_last(made: "type[Made]") -> None:
    def searched(rate: float, f1: float, seeds: int) -> list[RunRecord]:
        settings = {"training.learning_rate": rate, "method.alpha": 0.5}
        return [
            made.run("adapt", seed, phase="search", settings=settings, dev_macro_f1=f1)
            for seed in range(seeds)
        ]

    found = groups.configurations(
        searched(1e-3, 0.9, 2) + searched(1e-4, 0.7, 5) + searched(1e-5, 0.8, 5)
    )
    assert [one.settings for one in found] == [
        {"training.learning_rate": rate} for rate in (1e-5, 1e-4, 1e-3)
    ]
    assert [one.rank for one in found] == [1, 2, 3]
    assert not any(one.chosen for one in found)


def test_the_chosen_configuration_is_the_one_that_the_final_ran(made: "type[Made]") -> None:
    rates = [1e-3, 1e-4]
    search = [
        made.run(phase="search", settings={"training.learning_rate": rate}, configuration_id=f"{i}")
        for i, rate in enumerate(rates)
    ]
    final = made.run(settings={"training.learning_rate": 1e-4}, configuration_id="other")
    chosen = {
        one.settings["training.learning_rate"]: one.chosen
        for one in groups.configurations([*search, final])
    }
    assert chosen == {1e-3: False, 1e-4: True}


def test_two_alphas_that_select_the_same_modules_are_one_configuration(made: "type[Made]") -> None:
    def run(alpha: float, modules: list[str], phase: str) -> RunRecord:
        return made.run(
            phase=phase,
            settings={"method.alpha": alpha},
            configuration_id=f"{phase}{modules}",
            selection_json=json.dumps({"modules": modules}),
        )

    runs = [run(0.1, ["a"], "search"), run(0.9, ["b"], "search"), run(0.2, ["a"], "final")]
    found = {one.settings["method.alpha"]: one.chosen for one in groups.configurations(runs)}
    assert found == {0.1: True, 0.9: False}


def test_every_field_that_only_leads_to_a_selection_is_known() -> None:
    own = AdaptConfig.model_fields.keys() - FullConfig.model_fields.keys()
    assert own == set(LEAD_TO_SELECTION)


def test_a_configuration_without_scores_ranks_last(made: "type[Made]") -> None:
    runs = [
        made.run(phase="search", settings={"method.alpha": alpha}, dev_macro_f1=f1)
        for alpha, f1 in ((0.1, None), (0.2, 0.1))
    ]
    failed = dataclasses.replace(runs[0], status="error")
    found = groups.configurations([failed, runs[1]])
    assert [one.estimate.mean for one in found] == [0.1, None]


def test_seeds_with_stages_of_their_own_are_one_arm_that_comes_last(made: "type[Made]") -> None:
    runs = made.final_runs({"full": 0.7, "adapt": 0.8}, seeds=3)
    runs += [
        made.run("adapt (own stages)", seed, configuration_id=f"c{seed}", test_macro_f1=0.9)
        for seed in range(100, 103)
    ]
    arms = groups.final_arms(runs)
    assert [arm.label for arm in arms] == ["adapt", "full", "adapt (own stages)"]
    assert [arm.own_stages for arm in arms] == [False, False, True]
    assert len(arms[2].runs) == 3
